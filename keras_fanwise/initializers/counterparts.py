"""Keras's initializers and ours: by name, as each other, times a factor, inside others."""

import contextlib
import copy
import functools
import itertools
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import keras

from keras_fanwise.arguments import fail, is_of_keras, snake_case
from keras_fanwise.backends.private_keras import TRIED, initializer_table
from keras_fanwise.fans.layers import Matrices
from keras_fanwise.initializers import structured, variance_scaling
from keras_fanwise.initializers.base import (
    Distribution,
    FanwiseInitializer,
    Seed,
    Site,
    random_state_kept,
)
from keras_fanwise.initializers.structured import FanwiseOrthogonal, FanwiseSubpixel
from keras_fanwise.initializers.variance_scaling import (
    FanwiseHeNormal,
    FanwiseSiren,
    FanwiseVarianceScaling,
)

# Stands in every saved model that uses an initializer: never change it.
PACKAGE = "keras_fanwise"

# In the order of their names.
CLASSES: tuple[type[FanwiseInitializer], ...] = tuple(
    value
    for name, value in sorted({**vars(structured), **vars(variance_scaling)}.items())
    if name.startswith("Fanwise") and value is not FanwiseInitializer
)


def _rebuilt(function: Any, defaults: Any, keywords: Any, closure: Any) -> Any:
    """Another function of the same code."""
    code, scope, name = function.__code__, function.__globals__, function.__name__
    other = types.FunctionType(code, scope, name, defaults, closure)
    other.__kwdefaults__ = keywords
    return other


for _cls in CLASSES:
    if "__init__" not in vars(_cls):
        # The constructor that it inherits, by its own name, which Python's errors tell.
        _init: Any = _cls.__init__
        _own = _rebuilt(_init, _init.__defaults__, _init.__kwdefaults__, _init.__closure__)
        _own.__annotations__ = _init.__annotations__
        _own.__qualname__ = f"{_cls.__name__}.__init__"
        _cls.__init__ = _own  # type: ignore[method-assign]


def register() -> None:
    """Registers the initializers with Keras, under both their names.

    `import keras_fanwise` does this. Call it again after
    `keras.saving.get_custom_objects().clear()`; calling it twice changes nothing.

    Warns if Keras does not find them by name afterwards, which none of the versions does
    that were tried.

    Example:

    >>> import keras
    >>> keras.saving.get_custom_objects().clear()
    >>> register()
    >>> keras.initializers.get("fanwise_he_normal").scale
    2.0
    """
    # The registration serves saving and loading; up to Keras 3.15 `keras.initializers.get`
    # looks for plain names among the custom objects, from 3.16 on in its own table alone.
    names: dict[str, type[FanwiseInitializer]] = {}
    for cls in CLASSES:
        keras.saving.register_keras_serializable(PACKAGE)(cls)
        names |= {cls.__name__: cls, snake_case(cls.__name__): cls}
    keras.saving.get_custom_objects().update(names)
    if _are_found():
        return
    initializer_table().update(names)
    if not _are_found():
        warnings.warn(
            f"Keras {keras.__version__} does not find the initializers of keras_fanwise by "
            "name. Their classes and instances still work, as in "
            "kernel_initializer=keras_fanwise.FanwiseHeNormal(). The versions of Keras "
            f"known to be good: {TRIED}.",
            stacklevel=2,
        )


@random_state_kept()
def _are_found() -> bool:
    """Whether Keras makes, of each of two names, one of this import and of no older one."""
    names = "FanwiseHeNormal", "fanwise_he_normal"
    try:
        return all(type(keras.initializers.get(name)) is FanwiseHeNormal for name in names)
    except Exception:  # of an unknown name, and whatever a later Keras has changed
        return False


# Arguments, of Keras's initializers and ours, that the values are proportional to.
_PROPORTIONAL = ("gain", "maxval", "mean", "minval", "stddev", "value")


def scaled(initializer: Any, factor: float, argument: str) -> Any:
    """An initializer of Keras or of this package, times a factor.

    For one of somebody else a ValueError, which names the `argument`.

    >>> scaled(FanwiseVarianceScaling(2.0), 0.5, "recipe")
    FanwiseVarianceScaling(scale=0.5)
    """
    if isinstance(initializer, keras.initializers.Zeros):
        return initializer
    if isinstance(initializer, keras.initializers.Ones):
        return keras.initializers.Constant(factor)
    ours = portable(initializer) or initializer
    if isinstance(ours, FanwiseVarianceScaling):
        # The named ones of the family have no scale among their arguments.
        config = FanwiseVarianceScaling.get_config(ours)
        return FanwiseVarianceScaling.from_config(
            {**config, "scale": ours.scale * factor**2}
        )
    is_known = isinstance(initializer, FanwiseInitializer) or is_of_keras(initializer)
    config = initializer.get_config() if is_known else {}
    changed = {name: config[name] * factor for name in _PROPORTIONAL if name in config}
    if isinstance(initializer, FanwiseSubpixel):
        changed = {"initializer": scaled(initializer.initializer, factor, argument)}
    elif isinstance(initializer, FanwiseSiren) and not initializer.first:
        changed = {"omega": initializer.omega / factor}
    if not changed:
        allowed = (
            "None with an initializer that cannot be multiplied by a number: only Keras's "
            "and this package's can, without FanwiseUpsampling and the first FanwiseSiren"
        )
        raise fail(ValueError, argument, allowed, initializer)
    return type(initializer).from_config({**config, **changed})


_FAMILY: dict[type, type[FanwiseVarianceScaling]] = {
    getattr(keras.initializers, cls.__name__.removeprefix("Fanwise")): cls
    for cls in CLASSES
    if issubclass(cls, FanwiseVarianceScaling)
}


def counterpart(
    initializer: Any, axes: bool = True, fans: Literal["layer", "shape"] = "layer"
) -> FanwiseVarianceScaling | None:
    """Ours of equal scale, mode, distribution and seed, which counts fans by the layer.

    `None` for all but Keras's own variance-scaling initializers. Axes that it has do not
    go before the layer where `EinsumDense` set them, from Keras 3.15 on: it counts its
    batch labels.
    """
    cls = _FAMILY.get(type(initializer))
    if cls is None:
        return None
    config = initializer.get_config()
    own = ("scale", "mode", "distribution") if cls is FanwiseVarianceScaling else ()
    arguments = {name: config[name] for name in own}
    # Keras has them from 3.15 on, and heeds them only if there are both.
    both = {name: config.get(name) for name in ("input_axes", "output_axes")}
    if axes and None not in both.values():
        arguments |= both
    return cls(seed=own_seed_of(initializer), fans=fans, **arguments)


def orthogonal_counterpart(initializer: Any) -> FanwiseOrthogonal | None:
    """Likewise for Keras's own `Orthogonal` of a positive gain, and `None` for others."""
    if type(initializer) is not keras.initializers.Orthogonal or initializer.gain <= 0:
        return None
    return FanwiseOrthogonal(initializer.gain, own_seed_of(initializer))


_NORMALS = {
    keras.initializers.RandomNormal: "untruncated_normal",
    keras.initializers.TruncatedNormal: "truncated_normal",
}
_OTHERS = keras.initializers.RandomUniform, keras.initializers.Orthogonal
_RANDOM = {*_FAMILY, *_NORMALS, *_OTHERS}


def is_random(initializer: Any) -> bool:
    """Whether it is one of Keras's own that are random; no instance of a subclass."""
    return type(initializer) in _RANDOM


def portable(initializer: Any) -> FanwiseInitializer | None:
    """One of this package that draws as an initializer does: itself if it is of it.

    For Keras's own it counts fans as Keras does. `None` for what is not random, or of
    somebody else.
    """
    kind = type(initializer)
    if isinstance(initializer, FanwiseInitializer):
        return initializer
    if kind in _NORMALS:
        distribution = Distribution(_NORMALS[kind], initializer.stddev, initializer.mean)
    elif kind is keras.initializers.RandomUniform:
        low, high = initializer.minval, initializer.maxval
        distribution = Distribution("uniform", (high - low) / 2, (high + low) / 2)
    elif kind is keras.initializers.Orthogonal:
        return _Orthogonal(initializer.gain, own_seed_of(initializer))
    else:
        return counterpart(initializer, fans="shape")
    return _OfDistribution(distribution, own_seed_of(initializer))


def own_seed_of(initializer: Any) -> Seed:
    """The seed that an initializer was made with, generators themselves."""
    return None if initializer.get_config().get("seed") is None else initializer.seed


class _OfDistribution(FanwiseInitializer):
    """Draws from one distribution, whatever the shape."""

    def __init__(self, distribution: Distribution, seed: Seed) -> None:
        super().__init__(seed)
        self._distribution = distribution

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        return self._distribution


class _Orthogonal(FanwiseOrthogonal):
    """By Keras's rule: rows or columns, whichever are fewer, of the flattened weight."""

    def __init__(self, gain: float, seed: Seed) -> None:
        super().__init__(seed=seed)
        self.gain = gain  # of Keras, which takes any number

    def whole(self, shape: Sequence[int], site: Site | None = None) -> Matrices:
        return super().whole(shape)


def replaced_inside(
    holder: Any, replacement: Callable[[Any], Any], around: tuple[int, ...] = ()
) -> Any:
    """What holds initializers, with those inside it replaced; itself if none is.

    Inside are attributes of callable objects and of what a method belongs to, closures,
    defaults, partials and containers, and of a layer in a closure the attributes that the
    function reads: the bias of an LSTM is filled by such a function of its cell. Of a part
    that `replacement` gives back its inside is next; circles end at the ids `around`.
    """
    if id(holder) in around:
        return holder
    parts, together = _taken_apart(holder)
    changed = {}
    for name, part in parts.items():
        other = replacement(part)
        if other is part:
            other = replaced_inside(part, replacement, (*around, id(holder)))
        if other is not part:
            changed[name] = other
    return together(parts | changed) if changed else holder


# A longer container holds values, not initializers.
_MOST_PARTS = 100
# What is inside, by name, and what makes another of such parts.
Parts: TypeAlias = tuple[dict[Any, Any], Callable[[dict[Any, Any]], Any]]


def _taken_apart(holder: Any) -> Parts:
    kind = type(holder)
    if kind in (list, tuple, dict):
        if len(holder) > _MOST_PARTS:
            return {}, dict
        if kind is dict:
            return holder, dict
        return dict(enumerate(holder)), lambda parts: kind(parts.values())
    if isinstance(holder, functools.partial):
        return (
            {"func": holder.func, "args": holder.args, "keywords": holder.keywords},
            lambda x: functools.partial(x["func"], *x["args"], **x["keywords"]),
        )
    if isinstance(holder, types.MethodType):
        function = holder.__func__
        attributes, together = _attributes(holder.__self__, function)
        return attributes, lambda parts: types.MethodType(function, together(parts))
    if isinstance(holder, types.FunctionType):
        return _parts_of_function(holder)
    if isinstance(holder, _Reads):
        return _attributes(*holder)
    if callable(holder) and not isinstance(holder, (type, keras.Layer)):
        return _attributes(holder)
    return {}, dict


class _Reads(NamedTuple):
    """A layer, as far as a function reads it."""

    owner: keras.Layer
    function: Any


def _attributes(owner: Any, function: Any = None) -> Parts:
    attributes = getattr(owner, "__dict__", {})
    if isinstance(owner, keras.Layer):
        read = getattr(getattr(function, "__code__", None), "co_names", ())
        attributes = {name: attributes[name] for name in read if name in attributes}
        return attributes, functools.partial(_View, owner)

    def copied(parts: dict[str, Any]) -> Any:
        try:
            other = copy.copy(owner)
        except Exception:  # of a compiled function, say: it stays as it is
            return owner
        if other is not owner:
            vars(other).update(parts)
        return other

    return attributes, copied


def _parts_of_function(function: types.FunctionType) -> Parts:
    parts: dict[Any, Any] = {
        number: _Reads(value, function) if isinstance(value, keras.Layer) else value
        for number, value in contents(function).items()
    }
    parts["defaults"], parts["keywords"] = function.__defaults__, function.__kwdefaults__

    def together(others: dict[Any, Any]) -> Any:
        closure = tuple(
            cell if others.get(n) is parts.get(n) else types.CellType(others[n])
            for n, cell in enumerate(function.__closure__ or ())
        )
        return _rebuilt(function, others["defaults"], others["keywords"], closure)

    return parts, together


def contents(function: types.FunctionType) -> dict[int, Any]:
    """The values of a closure, by their number, as far as it has them yet."""
    found = {}
    for number, cell in enumerate(function.__closure__ or ()):
        with contextlib.suppress(ValueError):
            found[number] = cell.cell_contents
    return found


class _View:
    """A layer, some of whose attributes are others."""

    def __init__(self, owner: keras.Layer, attributes: dict[str, Any]) -> None:
        vars(self).update(attributes, _owner=owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)


def random_inside(initializer: Any) -> list[Any]:
    """The random initializers, ours and Keras's, inside one that is neither."""
    found: list[Any] = []

    def look(value: Any) -> Any:
        if isinstance(value, FanwiseInitializer) or is_random(value):
            found.append(value)
        return value

    # Those have none inside, and are what most weights are filled by.
    if not isinstance(initializer, (str, FanwiseInitializer)) and not is_of_keras(
        initializer
    ):
        replaced_inside(initializer, look)
    return found


def drawing_for(
    site: Site, value: Any, ours: FanwiseInitializer, key: str, seed: int | None
) -> Any:
    """One inside another, of the same class and attributes, which draws for a weight.

    The one outside may ask for parts of the weight, in calls that have streams of their
    own, from which `ours` draws what `value` would.
    """
    numbers = itertools.count()

    def call(self: Any, shape: Sequence[int], dtype: Any = None, **_: Any) -> Any:
        part = Site.of(site.layer, site.name, shape, f"{key} {next(numbers)}")
        return ours.draw(shape, dtype, site=part._replace(path=site.path), seed=seed)

    copied = copy.copy(value)
    copied.__class__ = type(type(value).__name__, (type(value),), {"__call__": call})
    return copied
