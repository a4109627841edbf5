"""What all initializers of the package share: the seed, the sampler, the draw."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import choice, dimensions, fail, in_weight, integer
from keras_fanwise.backends.arrays import to_tensor
from keras_fanwise.backends.private_keras import is_shape_inference
from keras_fanwise.backends.sharding import Part, distribute, placed, sharding_of
from keras_fanwise.initializers.scaling import Parameters
from keras_fanwise.naming import weight_key, weight_path
from keras_fanwise.sampling.sampler import DTYPES, draw
from keras_fanwise.sampling.streams import stream_key

SAMPLERS = ("portable", "backend")
# Keras packs an integer seed into 32 bits; the portable sampler hashes it.
_SEED_LIMITS = {"portable": 2**64, "backend": 2**32}

# `keras.random` by distribution: (shape, spread, mean, dtype, seed) to a tensor.
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


class RandomInitializer(keras.initializers.Initializer):
    """Base of the initializers: a seed, a sampler, and a draw from both.

    Not a subclass of `keras.initializers.VarianceScaling`: from Keras 3.15 on
    `EinsumDense` rebuilds those with axes of its own and would correct the fans a
    second time.

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
        ValueError: `seed` is out of range, or `sampler` is unknown.
    """

    # Outside a layer no weight has a path, and all draws come from one stream.
    _weight_path = ""
    _stream_name = ""

    def __init__(self, seed: Any, sampler: Any) -> None:
        self.sampler = choice("sampler", sampler, SAMPLERS)
        if isinstance(seed, dict):  # from a config
            seed = keras.saving.deserialize_keras_object(seed)
        if seed is not None and not isinstance(seed, keras.random.SeedGenerator):
            seed = _integer_seed(seed, self.sampler)
        self._init_seed = seed
        self.seed: int | keras.random.SeedGenerator = fresh_seed() if seed is None else seed

    def _bound_to(
        self, layer: keras.Layer, weight_name: str, shape: Sequence[int]
    ) -> "RandomInitializer":
        """A copy that fills one weight of one layer; `binding.py` asks for it.

        It shares the state of a `SeedGenerator` with the original, which the layer
        keeps and serializes.
        """
        copy = self.__copy__()
        copy._weight_path = weight_path(layer, weight_name)
        copy._stream_name = weight_key(copy._weight_path)
        if self._init_seed is None and self.sampler == "portable":
            copy.seed = fresh_seed()
        return copy

    def _streamed(self, seed: int, name: str, own_seed: bool) -> "RandomInitializer":
        """A copy that draws the stream of a seed and a name, by either sampler.

        Args:
            seed: an integer.
            name: of the stream.
            own_seed: whether the initializer's own seed, if it has one, goes first.
        """
        copy = self.__copy__()
        copy._stream_name = name
        if own_seed and self._init_seed is not None:
            if not isinstance(self._init_seed, int):
                return copy  # the state of the generator advances
            seed = self._init_seed
        copy.seed = seed
        if self.sampler == "backend":
            copy.seed = stream_key(seed, name) % _SEED_LIMITS["backend"]
        return copy

    def __call__(self, shape: Sequence[int], dtype: Any = None, layout: Any = None) -> Any:
        """Draws a tensor.

        Args:
            shape: list or tuple of integers that are 0 or more.
            dtype: float16, bfloat16, float32 or float64; by default
                `keras.config.floatx()`.
            layout: `None`, or, on JAX, a `keras.distribution.TensorLayout` or a
                `jax.sharding.Sharding`, for a tensor that is spread over devices. Its
                values are those of the whole tensor; the portable sampler draws each
                shard on its own, and only those of this process.

        Raises:
            TypeError: `shape` is not a list or tuple of integers, or `layout` is of
                another type.
            ValueError: a dimension is negative, `dtype` is not one of the four,
                the axes that fans are counted from do not fit the shape, or the shape
                cannot be divided as `layout` says.
        """
        try:
            shape, dtype = checked_shape_and_dtype(shape, dtype)
            drawn = self._parameters(shape)
            if layout is None:
                return self._draw(shape, dtype, drawn)
            with sharding_of(layout) as sharding:
                return self._draw(shape, dtype, drawn, sharding)
        except (TypeError, ValueError) as error:
            if self._weight_path:
                raise in_weight(error, self._weight_path, shape) from error
            raise

    def _parameters(self, shape: tuple[int, ...]) -> Parameters:
        """What is drawn for a weight of this shape."""
        raise NotImplementedError

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

    def _draw(
        self, shape: tuple[int, ...], dtype: str, drawn: Parameters, sharding: Any = None
    ) -> Any:
        if self.sampler == "backend":
            values = _BACKEND_DRAWS[drawn.distribution](
                shape, drawn.spread, drawn.mean, dtype=dtype, seed=self.seed
            )
            return values if sharding is None else distribute(values, sharding)
        if self._is_placeholder():
            return keras.ops.zeros(shape, dtype=dtype)
        part = self._parts(shape, dtype, drawn)
        return to_tensor(part(None)) if sharding is None else placed(shape, sharding, part)

    def _parts(self, shape: tuple[int, ...], dtype: str, drawn: Parameters) -> Part:
        """One draw, of which any part can be had."""
        key = stream_key(self._seed_for_draw(), self._stream_name)
        distribution, spread, mean = drawn
        return lambda index: draw(
            key, distribution, shape, dtype, spread=spread, mean=mean, index=index
        )

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

    def __copy__(self) -> "RandomInitializer":
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


def fresh_seed() -> int:
    """The integer that an unseeded initializer of Keras would take, from its source."""
    return keras.initializers.RandomNormal().seed


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


def checked_shape_and_dtype(shape: Any, dtype: Any) -> tuple[tuple[int, ...], str]:
    """The arguments of a call, as a tuple of ints and the name of a float type.

    Raises:
        TypeError: `shape` is not a list or tuple of integers.
        ValueError: a dimension is negative, or `dtype` is not one of float16,
            bfloat16, float32 and float64.
    """
    try:
        name = keras.backend.standardize_dtype(dtype)
    except (TypeError, ValueError):
        name = None
    if name not in DTYPES:
        raise fail(ValueError, "dtype", "one of " + ", ".join(DTYPES), dtype)
    return dimensions(shape), name
