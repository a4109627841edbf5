"""Initializers of others: as ours, times a factor, and one inside another."""

import contextlib
import copy
import functools
import itertools
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import keras

from keras_fanwise.arguments import fail
from keras_fanwise.fans.layers import Matrices
from keras_fanwise.initializers import variance_scaling
from keras_fanwise.initializers.base import Distribution, FanwiseInitializer, Seed, Site
from keras_fanwise.initializers.structured import FanwiseOrthogonal, FanwiseSubpixel
from keras_fanwise.initializers.variance_scaling import FanwiseSiren, FanwiseVarianceScaling

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
    is_known = isinstance(initializer, FanwiseInitializer) or _is_of_keras(initializer)
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


def _is_of_keras(initializer: Any) -> bool:
    cls = type(initializer)
    return getattr(keras.initializers, cls.__name__, None) is cls


_FAMILY: dict[type, type[FanwiseVarianceScaling]] = {
    getattr(keras.initializers, name.removeprefix("Fanwise")): cls
    for name, cls in vars(variance_scaling).items()
    if name.startswith("Fanwise") and issubclass(cls, FanwiseVarianceScaling)
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
    return together(changed) if changed else holder


# A longer container holds values, not initializers.
_MOST_PARTS = 100
# What is inside, by name, and what makes another of some parts that are changed.
Parts: TypeAlias = tuple[dict[Any, Any], Callable[[dict[Any, Any]], Any]]


def _taken_apart(holder: Any) -> Parts:
    parts: dict[Any, Any]
    if type(holder) in (list, tuple, dict) and len(holder) > _MOST_PARTS:
        return {}, lambda changed: holder
    if type(holder) in (list, tuple):
        parts = dict(enumerate(holder))
        return parts, lambda changed: type(holder)((parts | changed).values())
    if type(holder) is dict:
        return holder, lambda changed: holder | changed
    if isinstance(holder, functools.partial):
        parts = {"func": holder.func, "args": holder.args, "keywords": holder.keywords}

        def bound(changed: dict[Any, Any]) -> Any:
            func, args, keywords = (parts | changed).values()
            return functools.partial(func, *args, **keywords)

        return parts, bound
    if isinstance(holder, types.MethodType):
        owner, function = holder.__self__, holder.__func__
        parts, together = _attributes(owner, function)
        return parts, lambda changed: types.MethodType(function, together(changed))
    if isinstance(holder, types.FunctionType):
        return _parts_of_function(holder)
    if isinstance(holder, _Reads):
        return _attributes(holder.owner, holder.function)
    if callable(holder) and not isinstance(holder, (type, keras.Layer)):
        return _attributes(holder)
    return {}, lambda changed: holder


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

    def copied(changed: dict[str, Any]) -> Any:
        try:
            other = copy.copy(owner)
        except Exception:  # of a compiled function, say: it stays as it is
            return owner
        if other is not owner:
            vars(other).update(changed)
        return other

    return attributes, copied


def _parts_of_function(function: types.FunctionType) -> Parts:
    cells = dict(enumerate(function.__closure__ or ()))
    parts: dict[Any, Any] = {
        number: _Reads(value, function) if isinstance(value, keras.Layer) else value
        for number, value in contents(function).items()
    }
    parts["defaults"], parts["keywords"] = function.__defaults__, function.__kwdefaults__

    def together(changed: dict[Any, Any]) -> types.FunctionType:
        defaults, keywords = (changed.pop(n, parts[n]) for n in ("defaults", "keywords"))
        new = {number: types.CellType(value) for number, value in changed.items()}
        closure = tuple((cells | new).values())
        code, name = function.__code__, function.__name__
        other = types.FunctionType(code, function.__globals__, name, defaults, closure)
        other.__kwdefaults__ = keywords
        return other

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
    if not isinstance(initializer, (str, FanwiseInitializer)) and not _is_of_keras(
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
