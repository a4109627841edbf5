"""What all initializers of the package share: the seed, the sampler, the draw."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_fanwise.arguments import choice, fail, in_weight, integer
from keras_fanwise.backends.arrays import on_host, to_tensor
from keras_fanwise.backends.private_keras import is_shape_inference
from keras_fanwise.backends.sharding import distribute, placed, sharding_of
from keras_fanwise.initializers.checks import check_reach, checked_shape_and_dtype
from keras_fanwise.initializers.randomness import fresh_seed
from keras_fanwise.initializers.scaling import Distribution
from keras_fanwise.initializers.site import Site
from keras_fanwise.sampling.memory import owned
from keras_fanwise.sampling.sampler import Stream
from keras_fanwise.sampling.streams import stream_key

Seed: TypeAlias = int | keras.random.SeedGenerator | None

SAMPLERS = ("portable", "backend")
# Keras packs an integer seed into 32 bits; the portable sampler hashes it.
_SEED_LIMITS = {"portable": 2**64, "backend": 2**32}

# `keras.random` by family: (shape, spread, mean, dtype, seed) to a tensor.
_BACKEND_DRAWS: dict[str, Callable[..., Any]] = {
    "uniform": lambda shape, spread, mean, **kwargs: keras.random.uniform(
        shape, minval=-spread, maxval=spread, **kwargs
    ),
    "truncated_normal": lambda shape, spread, mean, **kwargs: keras.random.truncated_normal(
        shape, mean=mean, stddev=spread, **kwargs
    ),
    "untruncated_normal": lambda shape, spread, mean, **kwargs: keras.random.normal(
        shape, mean=mean, stddev=spread, **kwargs
    ),
}


class FanwiseInitializer(keras.initializers.Initializer):
    """Base of the initializers: a seed, a sampler, and a draw from both.

    Derive from it for an initializer of your own. `expected` says what is drawn; if that
    is none of the three families of `Distribution`, `sample` draws it. Inside a layer both
    get the `Site`: the weight that is filled, with its fans. A stream for each weight, the
    four float types, layouts over devices, `initialize`, `reinitialize` and `audit` follow
    from these two. What the constructor takes, `get_config` gives back, beside what
    `super().get_config()` does.

    An initializer is never changed by being used, but for the state of its
    `SeedGenerator`.

    Args:
        seed: an integer from 0 to 2**64 - 1 (to 2**32 - 1 with
            `sampler="backend"`), for the same values at every call; a
            `keras.random.SeedGenerator`, whose state advances with every draw; or
            `None`, for an integer taken from Python's `random` module, which
            `keras.utils.set_random_seed` seeds.
        sampler: `"portable"` draws on the host, the same bits on every backend and
            machine; `"backend"` calls `keras.random`, as Keras's own initializers
            do.

    Raises:
        TypeError: `seed` is not one of these, or `sampler` is not a string.
        ValueError: `seed` is out of range, or `sampler` is unknown, or is `"backend"` for
            a class with a `sample` of its own.

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

    def __init__(self, seed: Seed = None, *, sampler: str = "portable") -> None:
        self.sampler = choice("sampler", sampler, SAMPLERS)
        if self.sampler == "backend" and _has_own_sample(type(self)):
            allowed = f"'portable' for {type(self).__name__}, which samples by itself"
            raise fail(ValueError, "sampler", allowed, sampler)
        if isinstance(seed, dict):  # from a config
            seed = keras.saving.deserialize_keras_object(seed)
        if seed is not None and not isinstance(seed, keras.random.SeedGenerator):
            seed = _integer_seed(seed, self.sampler)
        self._init_seed = seed
        self.seed: int | keras.random.SeedGenerator = fresh_seed() if seed is None else seed

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """What is drawn for a weight of this shape.

        Args:
            shape: of the weight.
            site: of the weight; `None` outside a layer.
        """
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
            stream: where the random numbers come from, and nowhere else: one stream gives
                the same values at every call.
            distribution: what `expected` gave.
            shape: of the whole weight.
            dtype: `"float16"`, `"bfloat16"`, `"float32"` or `"float64"`.
            index: a slice of each axis, for that part of the whole; `None` for all.
            site: of the weight; `None` outside a layer.

        Returns:
            An array of `dtype`, of the shape of the part.
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
        """Draws a tensor, outside a layer: `draw` without a site."""
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
            dtype: float16, bfloat16, float32 or float64; by default
                `keras.config.floatx()`.
            layout: `None`, or, on JAX, a `keras.distribution.TensorLayout` or a
                `jax.sharding.Sharding`, for a tensor that is sharded over devices. Its
                values are those of the whole tensor; the portable sampler draws each
                shard on its own, and only those of this process.
            site: of the weight that is filled; `None` outside a layer.
            seed: an integer that goes before the initializer's own seed.
            distribution: what `expected` gave for this shape and site, if that is known.

        Raises:
            TypeError: `shape` is not a list or tuple of integers, or `layout` is of
                another type.
            ValueError: a dimension is negative, `dtype` is not one of the four,
                it does not reach as far as the draws do, the axes that fans are counted
                from do not fit the shape, or the shape cannot be divided as `layout` says.
        """
        try:
            shape, dtype = checked_shape_and_dtype(shape, dtype)
            distribution = distribution or self.expected(shape, site)
            check_reach(distribution, dtype)
            if layout is None:
                return self._placed(shape, dtype, None, site, seed, distribution)
            with sharding_of(layout) as sharding:
                return self._placed(shape, dtype, sharding, site, seed, distribution)
        except (TypeError, ValueError) as error:
            if site is not None:
                raise in_weight(error, site.path, shape) from error
            raise

    def weight_seed(self) -> int | None:
        """The seed for one more weight of a layer; `None` if its own seed serves all.

        Without a seed each weight gets a fresh one, but for `sampler="backend"`, which
        follows Keras.
        """
        own = self._init_seed is not None or self.sampler == "backend"
        return None if own else fresh_seed()

    def get_config(self) -> dict[str, Any]:
        """The arguments, JSON-serializable."""
        seed = keras.saving.serialize_keras_object(self._init_seed)
        return {"seed": seed, "sampler": self.sampler}

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        changed = [
            f"{name}={value!r}"
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
        if self.sampler == "backend":
            kept = self.seed
            if seed is not None:
                kept = stream_key(seed, key) % _SEED_LIMITS["backend"]
            values = _BACKEND_DRAWS[distribution.family](
                shape, distribution.spread, distribution.mean, dtype=dtype, seed=kept
            )
            return values if sharding is None else distribute(values, sharding)
        if seed is None and self._is_placeholder():
            return keras.ops.zeros(shape, dtype=dtype)
        words = self._seed_for_draw() if seed is None else seed
        stream = Stream(stream_key(words, key))

        def part(index: Sequence[slice] | None) -> np.ndarray:
            values = self.sample(stream, distribution, shape, dtype, index, site)
            return owned(values, dtype) if _has_own_sample(type(self)) else values

        return to_tensor(part(None)) if sharding is None else placed(shape, sharding, part)

    def _is_placeholder(self) -> bool:
        # The state of a generator can be neither read nor advanced there.
        return not isinstance(self.seed, int) and is_shape_inference(self.seed.state)

    def _seed_for_draw(self) -> int | Sequence[int]:
        """The integer seed, or the words of the generator's state, which advances."""
        if isinstance(self.seed, int):
            return self.seed
        try:
            words = _state(self.seed)
        except Exception as error:
            raise fail(
                ValueError,
                "seed",
                "an integer inside a traced function, where the state of a "
                "SeedGenerator has no value to draw from on the host (or use "
                "sampler='backend', which can be traced)",
                self.seed,
            ) from error
        self.seed.next()
        # The backends hold the 32-bit words of the state in different types.
        return [int(word) & 0xFFFFFFFF for word in words]

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


def _state(generator: keras.random.SeedGenerator) -> np.ndarray:
    # Inside a traced function even a constant times one is a tracer, which fails.
    return np.asarray(keras.ops.convert_to_numpy(generator.state.value * 1))


def _integer_seed(seed: Any, sampler: str) -> int:
    limit = _SEED_LIMITS[sampler]
    try:
        return integer("seed", seed, 0, limit)
    except (TypeError, ValueError) as error:
        allowed = (
            f"`None`, a keras.random.SeedGenerator or an integer from 0 to {limit - 1} "
            f"(with sampler={sampler!r})"
        )
        raise fail(type(error), "seed", allowed, seed) from None
