"""Checks of arguments: every error names one, what is allowed, and what was received."""

import difflib
import fnmatch
import functools
import math
import numbers
import operator
import re
from collections.abc import Sequence
from typing import Any

import keras


def fail(kind: type[Exception], name: str, allowed: str, received: Any) -> Exception:
    """The error for an argument: what is allowed, then what was received."""
    return kind(f"`{name}` must be {allowed}. Received: {name}={received!r}")


def printable(text: str) -> str:
    """`text`, of other people's files, with what is no visible character escaped."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in text
    )


def in_weight(error: Exception, path: str, shape: Any) -> Exception:
    """The same error, of the weight at `path` of a model."""
    # Not the class itself: some, such as JAX's, are not made from a message alone.
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{printable(path)} of shape {shape}: {error}")


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """`value`, in lower case, if it is one of `allowed`."""
    if isinstance(value, str) and value.lower() in allowed:
        return value.lower()
    options = "one of " + ", ".join(repr(option) for option in allowed)
    if not isinstance(value, str):
        raise fail(TypeError, name, options, value)
    raise fail(ValueError, name, options + nearest(value, allowed), value)


def nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the one of `known` that `name` may mean, after a space; or `""`."""
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def flag(name: str, value: Any) -> bool:
    """`value` if it is True or False, and nothing that counts as one of them."""
    if not isinstance(value, bool):
        raise fail(TypeError, name, "True or False", value)
    return value


def real(name: str, value: Any) -> float:
    """`value` as a float, if it is a finite real number."""
    allowed = "a finite number"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise fail(TypeError, name, allowed, value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise fail(ValueError, name, allowed, value)
    return number


def positive(name: str, value: Any) -> float:
    """`value` as a float, if it is a finite number above zero."""
    number = real(name, value)
    if number <= 0:
        raise fail(ValueError, name, "a finite number above 0", value)
    return number


def integer(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int, if it is an integer (NumPy's too) in [low, high)."""
    allowed = f"an integer from {low} to {high - 1}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise fail(TypeError, name, allowed, value)
    number = int(value)
    if not low <= number < high:
        raise fail(ValueError, name, allowed, value)
    return number


def integers(name: str, values: Any, allowed: str) -> tuple[int, ...]:
    """`values` as a tuple of ints, if it is a list or tuple of integers."""
    try:
        several = list(values)
        if isinstance(values, (str, bytes)) or bool in map(type, several):
            raise TypeError
        return tuple(map(operator.index, several))
    except TypeError:
        raise fail(TypeError, name, allowed, values) from None


def dimensions(shape: Any) -> tuple[int, ...]:
    """`shape` as a tuple of ints, if every dimension is known and not negative."""
    allowed = "a list or tuple of integers that are 0 or more"
    result = integers("shape", shape, allowed)
    if min(result, default=0) < 0:
        raise fail(ValueError, "shape", allowed, shape)
    return result


def glob_matches(glob: str, path: str) -> bool:
    """Whether a path, or what follows one of its slashes, is as the glob says."""
    return fnmatch.fnmatchcase(path, glob) or fnmatch.fnmatchcase(path, f"*/{glob}")


def globs_of(name: str, value: Any, paths: Sequence[str]) -> list[str]:
    """`value`, a glob or a list of globs each of which meets a path, as a list."""
    globs = [value] if isinstance(value, str) else value
    if (
        not isinstance(globs, (list, tuple))
        or not globs
        or not all(isinstance(glob, str) for glob in globs)
    ):
        raise fail(TypeError, name, "a glob or a list of globs, such as 'head/*'", value)
    for glob in globs:
        if not any(glob_matches(glob, path) for path in paths):
            example = f", such as {paths[0]!r}," if paths else ""
            allowed = f"globs that meet a weight{example} and {glob!r} meets none"
            raise fail(ValueError, name, allowed, value)
    return list(globs)


def is_of_keras(one: Any) -> bool:
    """Whether it is a layer or an initializer that Keras has, and not of a subclass."""
    cls, modules = type(one), (keras.layers, keras.initializers)
    return any(getattr(module, cls.__name__, None) is cls for module in modules)


@functools.lru_cache
def snake_case(name: str) -> str:
    """What Keras calls an object of a class of this name: `conv2d_transpose`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def weight_path(layer: keras.Layer, name: str) -> str:
    """The path of a weight, from its layer, which may only be being built."""
    return f"{layer.path or layer.name}/{name}"


def split_number(layer: keras.Layer) -> tuple[str, int] | None:
    """The name of a layer without Keras's number, and that; `None` if a user chose it."""
    # Bidirectional puts one of two words before the name of its layer.
    base = snake_case(type(layer).__name__)
    match = re.fullmatch(f"((?:forward_|backward_)?{base})(?:_([1-9][0-9]*))?", layer.name)
    return (match[1], int(match[2] or 0)) if match else None
