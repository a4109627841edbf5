"""Which weights of a model get which initializer."""

import fnmatch
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_fanwise.arguments import fail, glob_matches, nearest, snake_case
from keras_fanwise.graph.branches import Branch, residual_branches
from keras_fanwise.graph.graph import OpenedGraph
from keras_fanwise.initializers.base import random_state_kept
from keras_fanwise.initializers.registration import CLASSES
from keras_fanwise.seam.weights import OwnedWeight, owned_weights

LayerTypes = type | tuple[type, ...]


class Subject:
    """A model, and what rules may ask of it, which is found out once.

    Attributes:
        model: the model.
        weights: all of them.
        notes: what rules have to tell of it, each once.

    Args:
        model: a built model or layer.
    """

    def __init__(self, model: keras.Layer) -> None:
        self.model = model
        self.weights = owned_weights(model)
        self.notes: dict[str, None] = {}

    @functools.cached_property
    def graph(self) -> OpenedGraph:
        """Its operations."""
        return OpenedGraph(self.model)

    @functools.cached_property
    def branches(self) -> list[Branch]:
        """Those that are residual."""
        return residual_branches(self.graph)


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
        weight: the weight's name, or a glob, such as `"*kernel"`.
        optional: whether the rule may go without a weight; by default this is an error.
        residual_end: whether it is only for the last weights of residual branches; see
            `residual_ends`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `initializer` is not the name of one.

    Example:

    >>> import keras
    >>> Rule("fanwise_he_normal", layer=keras.layers.Conv2D, weight="kernel")
    Rule('fanwise_he_normal', layer=Conv2D, weight='kernel')
    """

    initializer: Any
    path: str | None = None
    layer: LayerTypes | None = None
    weight: str | None = None
    optional: bool = False
    residual_end: bool = False

    @random_state_kept()
    def __post_init__(self) -> None:
        resolved(self.initializer)
        for name in ("path", "weight"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise fail(TypeError, name, "a glob, such as '*kernel', or None", value)
        layer = keras.Layer if self.layer is None else self.layer
        types = layer if isinstance(layer, tuple) else (layer,)
        if not all(isinstance(cls, type) and issubclass(cls, keras.Layer) for cls in types):
            allowed = "a subclass of keras.Layer, a tuple of them, or None"
            raise fail(TypeError, "layer", allowed, self.layer)
        for name in ("optional", "residual_end"):
            if not isinstance(getattr(self, name), bool):
                raise fail(TypeError, name, "True or False", getattr(self, name))

    def matches(self, owned: OwnedWeight) -> bool:
        """Whether a weight meets all conditions."""
        return (
            (self.path is None or glob_matches(self.path, owned.variable.path))
            and (
                self.layer is None
                or any(isinstance(holder, self.layer) for holder in owned.holders)
            )
            and (
                self.weight is None or fnmatch.fnmatchcase(owned.variable.name, self.weight)
            )
        )

    def for_subject(self, subject: Subject) -> Sequence["Rule"]:
        """The rules that it stands for in a model: itself, where that is enough."""
        if not self.residual_end:
            return [self]
        last = [end.last for branch in subject.branches for end in branch.ends]
        return [OfVariables.of(self, last)]

    def __repr__(self) -> str:
        parts = [_shown(self.initializer)]
        parts += [
            f"{name}={_shown(value)}"
            for name in ("path", "layer", "weight", "optional", "residual_end")
            if (value := getattr(self, name))
        ]
        return f"Rule({', '.join(parts)})"


@dataclass(frozen=True, eq=False, repr=False)
class OfVariables(Rule):
    """A rule for some weights alone, whatever others have their paths."""

    variables: frozenset[int] = frozenset()

    @classmethod
    def of(cls, rule: Rule, variables: Sequence[keras.Variable]) -> "OfVariables":
        """The rule, as far as it is for these weights."""
        return cls(**vars(rule), variables=frozenset(map(id, variables)))

    def matches(self, owned: OwnedWeight) -> bool:
        """Whether it is one of the weights, and meets all conditions."""
        return id(owned.variable) in self.variables and super().matches(owned)


class StandIn(Rule):
    """A rule that stands for others, which it gives once it knows the model."""

    def matches(self, owned: OwnedWeight) -> bool:
        """No weight: those of the model are met by the rules of `for_subject`."""
        return False


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        more = f" and {len(value) - 3} more" if len(value) > 3 else ""
        return f"({', '.join(map(_shown, value[:3]))}{more})"
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
