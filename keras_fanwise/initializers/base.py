"""What every initializer has: a site, a distribution, a seed, and a draw from them."""

import contextlib
import functools
import inspect
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import ml_dtypes
import numpy as np

from keras_fanwise.arguments import (
    choice,
    dimensions,
    fail,
    in_weight,
    integer,
    weight_path,
)
from keras_fanwise.backends.arrays import (
    distribute,
    dtype_of_tensor,
    keras_seed,
    on_host,
    placed,
    sharding_of,
    to_tensor,
)
from keras_fanwise.backends.compute import compute
from keras_fanwise.backends.private_keras import (
    SEAM,
    is_shape_inference,
    is_stateless,
    warn_if_the_seam_is_lost,
)
from keras_fanwise.fans.counting import Fans
from keras_fanwise.fans.layers import layer_fans
from keras_fanwise.sampling import device
from keras_fanwise.sampling.sampler import DTYPES, Stream, owned, state_key, stream_key


class Site(NamedTuple):
    """A weight that is being filled: where it is, and how many inputs feed a unit.

    Attributes:
        path: of the weight, for messages.
        key: the name of its random stream: weights with the same seed and key have the
            same values.
        layer: that owns it, perhaps still being built.
        shape: of the weight.
        fans: as `layer_fans` counts them.
        name: of the weight in its layer, as in `weight.name`.

    Example:

    >>> import keras
    >>> layer = keras.layers.DepthwiseConv2D(3, name="blur")
    >>> site = Site.of(layer, "kernel", (3, 3, 64, 1))
    >>> site.path, site.fans
    ('blur/kernel', Fans(fan_in=9, fan_out=9))
    """

    path: str
    key: str
    layer: keras.Layer
    shape: tuple[int, ...]
    fans: Fans
    name: str

    @classmethod
    def of(
        cls, layer: keras.Layer, weight_name: str, shape: Sequence[int], key: str = ""
    ) -> "Site":
        """The site of a weight of a layer, which may only be being built.

        Its attributes are the arguments; the default of `key` is for draws outside a layer.
        Raises what `layer_fans` does.
        """
        path = weight_path(layer, weight_name)
        fans = layer_fans(layer, weight_name, shape)
        return cls(path, key, layer, tuple(shape), fans, weight_name)


DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")

# Standard deviation of a standard normal truncated at two standard deviations,
# sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)), to the digits that Keras has: one more or
# fewer would break the bit-equality of `sampler="backend"` with the built-ins.
TRUNCATED_STD = 0.87962566103423978


class Distribution(NamedTuple):
    """What is drawn: a family, its spread and its mean.

    Attributes:
        family: `"uniform"`, `"truncated_normal"`, `"untruncated_normal"`, or the name of
            another, for an initializer with its own `sample`.
        spread: of a uniform, the limit: it is in `(mean - spread, mean + spread)`; of a
            truncated normal, the standard deviation before truncation at twice that
            value; of all others the standard deviation, infinite if there is none.
        mean: what it is centred on.

    Example:

    >>> import math
    >>> Distribution("uniform", math.sqrt(3)).std
    1.0
    """

    family: str
    spread: float
    mean: float = 0.0

    @property
    def std(self) -> float:
        """The standard deviation of what is drawn."""
        if self.family == "uniform":
            return self.spread / math.sqrt(3.0)
        if self.family == "truncated_normal":
            return self.spread * TRUNCATED_STD
        return self.spread

    def reach(self, dtype: str) -> float:
        """What no value drawn in `dtype` is beyond; 0 for a family of somebody else's."""
        # The normal's are those of 24-bit uniforms, 5.5, and of 53-bit ones, 8.3, with
        # some room for the backends' own.
        normal = 9.0 if dtype == "float64" else 6.0
        spreads = {"uniform": 1.0, "truncated_normal": 2.0, "untruncated_normal": normal}
        if self.family not in spreads:
            return 0.0
        return abs(self.mean) + spreads[self.family] * self.spread


def checked_shape_and_dtype(shape: Any, dtype: Any) -> tuple[tuple[int, ...], str]:
    """The arguments of a call, as a tuple of ints and the name of a float type."""
    try:
        name = keras.backend.standardize_dtype(dtype)
    except (TypeError, ValueError):
        name = None
    if name not in DTYPES:
        raise fail(ValueError, "dtype", "one of " + ", ".join(DTYPES), dtype)
    return dimensions(shape), name


# The largest number of each type.
_LIMITS = {
    name: float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    for name, dtype in DTYPES.items()
}


def _check_reach(distribution: Distribution, dtype: str) -> None:
    """A ValueError if the type ends before the distribution: draws would be infinite."""
    real = dtype_of_tensor(dtype)
    if distribution.reach(dtype) > _LIMITS[real]:
        mean = f"mean {distribution.mean:.3g} and " if distribution.mean else ""
        allowed = (
            f"a type that holds values of {mean}standard deviation {distribution.std:.3g}; "
            f"{real} ends at {_LIMITS[real]:.3g}"
        )
        raise fail(ValueError, "dtype", allowed, dtype)


@on_host
def fresh_seed() -> int:
    """The integer that an unseeded initializer of Keras would take, from its source."""
    return random.randint(1, 10**9)


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Around initializers that are only looked at: without a seed, they take a number."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


Seed: TypeAlias = int | keras.random.SeedGenerator | None

SAMPLERS = ("portable", "backend")
# Keras packs an integer seed into 32 bits; the portable sampler hashes it.
_SEED_LIMITS = {"portable": 2**64, "backend": 2**32}


def _by_keras(
    distribution: Distribution, shape: tuple[int, ...], dtype: str, seed: Any
) -> Any:
    family, spread, mean = distribution
    seed = keras_seed(seed) if isinstance(seed, int) else seed
    if family == "uniform":
        return keras.random.uniform(shape, mean - spread, mean + spread, dtype, seed)
    is_truncated = family == "truncated_normal"
    draw = keras.random.truncated_normal if is_truncated else keras.random.normal
    return draw(shape, mean, spread, dtype, seed)


def _shown(value: Any) -> str:
    """Of what a config holds of an object of Keras, such as a generator, a short form."""
    if not isinstance(value, dict) or "class_name" not in value:
        return repr(value)
    config = value.get("config") or {}
    inner = (f"{name}={_shown(part)}" for name, part in config.items() if name != "name")
    return f"{value['class_name']}({', '.join(inner)})"


class FanwiseInitializer(keras.initializers.Initializer):
    """Base of the initializers: a seed, a sampler, and a draw from both.

    Derive from it for an initializer of your own. `expected` says what is drawn; if that
    is none of the three families of `Distribution`, `sample` draws it. Inside a layer both
    get the `Site`: the weight that is filled, with its fans. A stream for each weight, the
    four float types, layouts over devices, `initialize`, `reinitialize` and `audit` follow
    from these two. What the constructor takes, `get_config` gives back, beside what
    `super().get_config()` does. Use changes nothing but the state of a `SeedGenerator`.

    Args:
        seed: an integer from 0 to 2**64 - 1 (to 2**32 - 1 with
            `sampler="backend"`), for the same values at every call; a
            `keras.random.SeedGenerator`, whose state advances with every draw; or
            `None`, for an integer taken from Python's `random` module, which
            `keras.utils.set_random_seed` seeds.
        sampler: `"portable"` draws the same bits on every backend, device and
            machine; `"backend"` calls `keras.random`, as Keras's initializers do.

    Raises:
        TypeError: `seed` is not one of these, or `sampler` is not a string.
        ValueError: `seed` is out of range, or `sampler` is unknown, or is `"backend"` for
            a class with its own `sample`.

    Example: a Cauchy distribution, by its inverse CDF. (It is no good start for a network.)

    >>> import keras, math
    >>> import numpy as np
    >>> from keras_fanwise import Distribution
    >>> class Cauchy(FanwiseInitializer):
    ...     def expected(self, shape, site=None):
    ...         return Distribution("cauchy", math.inf)  # it has no standard deviation
    ...     def sample(self, stream, distribution, shape, dtype, index=None, site=None):
    ...         uniform = stream.draw("uniform", shape, dtype, index=index)
    ...         return 0.01 * np.tan(np.pi / 2 * uniform)
    >>> layer = keras.layers.Dense(8, kernel_initializer=Cauchy(seed=1))
    >>> layer.build((None, 4))
    """

    # Whether it gives the same values whatever the seed.
    is_fixed = False

    def __init__(self, seed: Seed = None, *, sampler: str = "portable") -> None:
        self.sampler = choice("sampler", sampler, SAMPLERS)
        if self.sampler == "backend" and _has_own_sample(type(self)):
            allowed = f"'portable' for {type(self).__name__}, which samples by itself"
            raise fail(ValueError, "sampler", allowed, sampler)
        if isinstance(seed, dict):  # from a config
            seed = keras.saving.deserialize_keras_object(seed)
        if seed is not None and not isinstance(seed, keras.random.SeedGenerator):
            limit = _SEED_LIMITS[self.sampler]
            try:
                seed = integer("seed", seed, 0, limit)
            except (TypeError, ValueError) as error:
                allowed = (
                    f"`None`, a keras.random.SeedGenerator or an integer from 0 to "
                    f"{limit - 1} (with sampler={self.sampler!r})"
                )
                raise fail(type(error), "seed", allowed, seed) from None
        self._init_seed = seed
        self.seed: int | keras.random.SeedGenerator = fresh_seed() if seed is None else seed

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """What is drawn for a weight of this shape; `site` is `None` outside a layer."""
        raise NotImplementedError(f"{type(self).__name__} has no method `expected`")

    def sample(
        self,
        stream: Stream,
        distribution: Distribution,
        shape: tuple[int, ...],
        dtype: str,
        index: Sequence[slice] | None = None,
        site: Site | None = None,
    ) -> np.ndarray:
        """Draws on the host; for a distribution that is none of the three families.

        Args:
            stream: the one source of random numbers, the same at every call.
            distribution: what `expected` gave.
            shape: of the whole weight.
            dtype: `"float16"`, `"bfloat16"`, `"float32"` or `"float64"`.
            index: a slice of each axis, for that part of the whole; `None` for all.
            site: of the weight; `None` outside a layer.

        Returns an array of `dtype`, of the shape of the part.
        """
        return stream.draw(
            distribution.family,
            shape,
            dtype,
            spread=distribution.spread,
            mean=distribution.mean,
            index=index,
        )

    def __call__(self, shape: Sequence[int], dtype: Any = None, layout: Any = None) -> Any:
        """Draws a tensor, outside a layer: `draw` without a site.

        Warns if it may be for a layer all the same, since somebody has put another
        `keras.Layer.add_weight` into the place of the one that tells the site.
        """
        if not hasattr(keras.Layer.add_weight, SEAM):
            warn_if_the_seam_is_lost()
        return self.draw(shape, dtype, layout)

    @on_host
    def draw(
        self,
        shape: Sequence[int],
        dtype: Any = None,
        layout: Any = None,
        *,
        site: Site | None = None,
        seed: int | None = None,
        distribution: Distribution | None = None,
    ) -> Any:
        """Draws a tensor.

        Args:
            shape: list or tuple of integers that are 0 or more.
            dtype: float16, bfloat16, float32, float64; by default `keras.config.floatx()`.
            layout: on JAX, a `keras.distribution.TensorLayout` or a
                `jax.sharding.Sharding`, for a tensor that is sharded over devices, with
                the same values: the portable sampler draws the shards of this process.
            site: of the weight that is filled; `None` outside a layer.
            seed: an integer that goes before the initializer's own seed.
            distribution: what `expected` gave for this shape and site, if that is known.

        Raises:
            TypeError: `shape` or `layout` is of the wrong type.
            ValueError: a dimension is negative; `dtype` is not one of the four, or ends
                before the draws do; the axes that fans are counted from, or `layout`, do
                not fit the shape; or `layout` is given on another backend than JAX.
        """
        try:
            shape, dtype = checked_shape_and_dtype(shape, dtype)
            distribution = distribution or self.expected(shape, site)
            _check_reach(distribution, dtype)
            with sharding_of(layout) as sharding:
                return self._placed(shape, dtype, sharding, site, seed, distribution)
        except (TypeError, ValueError) as error:
            if site is not None:
                raise in_weight(error, site.path, shape) from error
            raise

    def weight_seed(self) -> int | None:
        """A fresh seed for one more weight of a layer; `None` if its own serves all."""
        own = self._init_seed is not None or self.sampler == "backend"  # as Keras does
        return None if own else fresh_seed()

    def get_config(self) -> dict[str, Any]:
        """The arguments, JSON-serializable."""
        seed = keras.saving.serialize_keras_object(self._init_seed)
        return {"seed": seed, "sampler": self.sampler}

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        changed = [
            f"{name}={_shown(value)}"
            for name, value in self.get_config().items()
            if name in parameters and value != parameters[name].default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def _placed(
        self,
        shape: tuple[int, ...],
        dtype: str,
        sharding: Any,
        site: Site | None,
        seed: int | None,
        distribution: Distribution,
    ) -> Any:
        key = site.key if site else ""  # all draws by hand come from one stream
        source: Any = self.seed if seed is None else seed
        if self.sampler == "backend":
            if seed is not None:
                source = stream_key(seed, key) % _SEED_LIMITS["backend"]
            return distribute(_by_keras(distribution, shape, dtype, source), sharding)
        is_generator = isinstance(source, keras.random.SeedGenerator)
        if is_shape_inference(source.state if is_generator else None):
            # A generator can be neither read nor advanced, and a graph draws in vain.
            return keras.ops.zeros(shape, dtype=dtype)
        own_sample = _has_own_sample(type(self))
        # Without a value now, but advancing: on JAX it is lost outside a stateless scope.
        of_state = (
            is_generator
            and compute().is_traced()
            and (keras.backend.backend() != "jax" or is_stateless())
        )
        if not own_sample and device.is_chosen(
            compute(), distribution, shape, dtype, sharding=sharding, of_state=of_state
        ):
            state = None
            if of_state:
                state, number = source.state.value * 1, state_key(2, key)
                source.next()
            else:
                number = stream_key(_advanced(source), key)
            draw_there = functools.partial(
                device.draw, compute(), number, distribution, shape, dtype, state=state
            )
            if sharding is None or compute().is_traced():
                return distribute(draw_there(), sharding)
            return placed(shape, sharding, draw_there, there=True)
        stream = Stream(stream_key(_advanced(source), key))

        def part(index: Sequence[slice] | None) -> np.ndarray:
            values = self.sample(stream, distribution, shape, dtype, index, site)
            return owned(values, dtype) if own_sample else values

        return to_tensor(part(None)) if sharding is None else placed(shape, sharding, part)

    def __copy__(self) -> "FanwiseInitializer":
        # Shares a SeedGenerator, where `__getstate__` would make another.
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        # A SeedGenerator cannot be pickled: its config and its state can.
        state = self.__dict__.copy()
        if isinstance(self.seed, keras.random.SeedGenerator):
            state["seed"] = (self.seed.get_config(), _state(self.seed))
            del state["_init_seed"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.seed, tuple):
            config, words = self.seed
            self.seed = keras.random.SeedGenerator.from_config(config)
            self.seed.state.assign(words)
            self._init_seed = self.seed


def _has_own_sample(cls: type[FanwiseInitializer]) -> bool:
    return cls.sample is not FanwiseInitializer.sample


def _advanced(generator: int | keras.random.SeedGenerator) -> int | Sequence[int]:
    """The words of the generator's state before it advances; an integer seed as it is."""
    if isinstance(generator, int):
        return generator
    try:
        words = _state(generator)
    except Exception as error:
        allowed = (
            "an integer inside a traced function, where the state of a SeedGenerator has "
            "no value to draw from on the host, and on JAX the next state is lost outside "
            "a keras.StatelessScope (or use sampler='backend', which can be traced)"
        )
        raise fail(ValueError, "seed", allowed, generator) from error
    generator.next()
    # The backends hold the 32-bit words of the state in different types.
    return [int(word) & 0xFFFFFFFF for word in words]


def _state(generator: keras.random.SeedGenerator) -> np.ndarray:
    # Inside a traced function even a constant times one is a tracer, which fails.
    return np.asarray(keras.ops.convert_to_numpy(generator.state.value * 1))
