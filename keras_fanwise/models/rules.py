"""Which weights of a model get which initializer."""

import fnmatch
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import keras

from keras_fanwise.arguments import choice, fail, glob_matches, nearest, snake_case
from keras_fanwise.graph.branches import Branch, residual_branches
from keras_fanwise.graph.graph import END, Graph
from keras_fanwise.initializers.base import random_state_kept
from keras_fanwise.initializers.registration import CLASSES
from keras_fanwise.seam.weights import OwnedWeight, Role, owned_weights, role

LayerTypes = type | tuple[type, ...]


class Subject:
    """A model, and what rules may ask of it, which is found out once.

    Attributes:
        model: a built model or layer.
        weights: all of them.
        notes: what rules have to tell of it, each once.
    """

    def __init__(self, model: keras.Layer) -> None:
        self.model = model
        self.weights = owned_weights(model)
        self.notes: dict[str, None] = {}

    @functools.cached_property
    def graph(self) -> Graph:
        """How it is wired."""
        return Graph(self.model)

    @functools.cached_property
    def branches(self) -> list[Branch]:
        """Those that are residual."""
        return residual_branches(self.graph)

    @functools.cached_property
    def ends(self) -> set[int]:
        """The last weights of the branches, by their ids."""
        return {id(end.last) for branch in self.branches for end in branch.ends}

    @functools.cached_property
    def heads(self) -> set[int]:
        """The kernels that the output comes from, with nothing after them, by their ids."""
        inside = {id(kernel) for branch in self.branches for kernel in branch.kernels}
        return {
            id(owned.variable)
            for owned in self.weights
            if role(owned).is_matrix
            and id(owned.variable) not in inside
            and self.graph.after(owned.variable) == {END}
        }


@dataclass(frozen=True, eq=False, repr=False)
class Rule:
    """An initializer, and the weights that it is for: those that meet all conditions.

    Args:
        initializer: a name, an instance or a class of an initializer, of Keras or of
            this package, or a function of `shape` and `dtype`.
        path: a glob on the weight's path, such as `"head/*"`; `*` stands for any
            characters, slashes too. It may leave out the first layers of the path:
            `"head/*"` is also met by `"model/head/kernel"`.
        layer: a layer class, or a tuple of them. Met by weights of a layer of that
            class, also of one that is inside it: the weights of an `LSTM` belong to its
            cell, those of a `MultiHeadAttention` to its `EinsumDense` layers.
        weight: the weight's name, or a glob, such as `"*kernel"`; or the weight itself, or
            a tuple of weights.
        optional: whether the rule may go without a weight; by default this is an error.
        residual_end: whether it is only for the last weights of residual branches; see
            `residual_ends`.
        head: whether it is only for the kernels that the output of the model comes from,
            with no other layer with weights after them.
        role: what the weight does: `"kernel"` (signals are multiplied by it, whatever its
            name), `"matrix"` (it has the shape of a kernel), `"lookup table"`, `"scale"`,
            `"bias"`, `"state"` (what is computed or counted, not learned), or
            `"something else"`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `initializer` is not the name of one, or `role` is not one of these.

    Example:

    >>> import keras
    >>> Rule("fanwise_he_normal", layer=keras.layers.Conv2D, weight="kernel")
    Rule('fanwise_he_normal', layer=Conv2D, weight='kernel')
    """

    initializer: Any
    path: str | None = None
    layer: LayerTypes | None = None
    weight: str | keras.Variable | tuple[keras.Variable, ...] | None = None
    optional: bool = False
    residual_end: bool = False
    head: bool = False
    role: str | None = None

    @random_state_kept()
    def __post_init__(self) -> None:
        resolved(self.initializer)
        if self.path is not None and not isinstance(self.path, str):
            raise fail(TypeError, "path", "a glob, such as '*kernel', or None", self.path)
        if not (
            self.weight is None
            or isinstance(self.weight, str)
            or _all(_several(self.weight), keras.Variable)
        ):
            allowed = "a glob, such as '*kernel', a weight, a tuple of them, or None"
            raise fail(TypeError, "weight", allowed, self.weight)
        layers = _several(keras.Layer if self.layer is None else self.layer)
        if not _all(layers, type) or not all(issubclass(c, keras.Layer) for c in layers):
            allowed = "a subclass of keras.Layer, a tuple of them, or None"
            raise fail(TypeError, "layer", allowed, self.layer)
        for name in ("optional", "residual_end", "head"):
            if not isinstance(getattr(self, name), bool):
                raise fail(TypeError, name, "True or False", getattr(self, name))
        if self.role is not None:
            choice("role", self.role, [each.value for each in Role])

    def matches(self, owned: OwnedWeight, subject: Subject) -> bool:
        """Whether a weight of a model meets all conditions."""
        variable = owned.variable
        if isinstance(self.weight, str):
            is_named = fnmatch.fnmatchcase(variable.name, self.weight)
        else:
            is_named = any(one is None or one is variable for one in _several(self.weight))
        return (
            is_named
            and (self.path is None or glob_matches(self.path, variable.path))
            and (
                self.layer is None
                or any(isinstance(holder, self.layer) for holder in owned.holders)
            )
            and (self.role is None or role(owned).value == self.role.lower())
            and (not self.residual_end or id(variable) in subject.ends)
            and (not self.head or id(variable) in subject.heads)
        )

    def __repr__(self) -> str:
        parts = [_shown(self.initializer)]
        parts += [
            f"{field.name}={_shown(value)}"
            for field in fields(self)[1:]
            if (value := getattr(self, field.name)) is not None and value is not False
        ]
        return f"Rule({', '.join(parts)})"


# A function of a model that gives rules.
ModelRules = Callable[[Subject], Sequence[Rule]]


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _all(values: Sequence[Any], cls: type) -> bool:
    return all(isinstance(value, cls) for value in values)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        more = f" and {len(value) - 3} more" if len(value) > 3 else ""
        return f"({', '.join(map(_shown, value[:3]))}{more})"
    if isinstance(value, keras.Variable):
        return repr(value.path)
    return getattr(value, "__name__", None) or repr(value)


def resolved(
    identifier: Any, argument: str = "initializer", also: Sequence[str] = ()
) -> Any:
    """The initializer that an identifier stands for.

    Args:
        identifier: what `keras.initializers.get` takes.
        argument: what to call it in an error.
        also: other names that the argument could be.

    Raises:
        TypeError: it is neither a name nor an initializer.
        ValueError: it is not a known name; the nearest one is in the message.
    """
    try:
        initializer = keras.initializers.get(identifier)
    except (TypeError, ValueError):
        initializer = None
    if initializer is not None:
        return initializer
    allowed = "a name, an instance or a class of an initializer"
    if also:
        allowed = f"{allowed}, a list of rules, or one of {', '.join(map(repr, also))}"
    if not isinstance(identifier, str):
        raise fail(TypeError, argument, allowed, identifier)
    names = [*also, *(snake_case(cls.__name__) for cls in CLASSES), *_keras_names()]
    # As PyTorch calls Glorot's and He's, after the same authors.
    meant = identifier.lower().replace("xavier", "glorot").replace("kaiming_", "he_")
    raise fail(ValueError, argument, allowed + nearest(meant, names), identifier)


def _keras_names() -> list[str]:
    names = (name for name in dir(keras.initializers) if name.islower())
    return [name for name in names if isinstance(getattr(keras.initializers, name), type)]
