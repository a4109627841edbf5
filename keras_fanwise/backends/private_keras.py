"""The only module that uses what Keras keeps private, and may change at any time."""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import keras
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope


def is_shape_inference(variable: keras.Variable) -> bool:
    """Whether Keras is only inferring shapes, so that no value drawn now is kept.

    A model that creates its weights in `call` is traced once to learn their shapes.
    Weights are not filled then but asked for placeholders, by a call of their
    initializer that looks like any other. Keras has no public way to ask for this
    state.

    Args:
        variable: one that would be read; in a stateless scope to which the caller gave
            a value for it, values drawn from it are meant to be kept.
    """
    return (
        in_stateless_scope() and get_stateless_scope().get_current_value(variable) is None
    )


def scopes() -> list[tuple[str, keras.Layer | None]]:
    """The parts of the path that a weight would have now, each with its layer.

    `None` stands for a layer that is not known: of one that is being built again, Keras
    keeps the path of its parents and not the parents.
    """
    parts: list[tuple[str, keras.Layer | None]] = []
    for entry in get_global_attribute("name_scope_stack") or ():
        if entry.override_parent is not None:
            names = [name for name in entry.override_parent.split("/") if name]
            if names != [name for name, _ in parts]:
                parts = [(name, None) for name in names]
        layer = entry.caller if isinstance(entry.caller, keras.Layer) else None
        parts.append((entry.name, layer))
    return parts


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables of a layer that are not those of layers inside it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that a layer has directly."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def all_layers(layer: keras.Layer) -> list[keras.Layer]:
    """The layer itself, then all inside it."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


@contextlib.contextmanager
def unfilled_variables() -> Iterator[None]:
    """Variables that are made in the block are not filled, and take no memory.

    They are not to be used afterwards; a value that is read is drawn for the occasion.
    """
    pending = get_global_attribute("uninitialized_variables")
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        set_global_attribute("uninitialized_variables", pending)


def symbolic_inputs(layer: keras.Layer) -> list[keras.KerasTensor]:
    """What the layer takes in all of its calls of functional models."""
    return [tensor for node in layer._inbound_nodes for tensor in node.input_tensors]


def predecessors(model: keras.Layer) -> list[tuple[Any, list[Any]]] | None:
    """Each operation of a model's graph, with those whose outputs it takes.

    `None` for what has no graph: subclassed models, and layers.
    """
    if isinstance(model, keras.Sequential):
        pairs = zip([None, *model.layers], model.layers, strict=False)
        return [(layer, [before] if before else []) for before, layer in pairs]
    if not isinstance(model, keras.Model) or not getattr(model, "operations", None):
        return None
    inside = {id(operation) for operation in model.operations}
    return [
        (
            operation,
            [
                parent.operation
                for node in operation._inbound_nodes
                for parent in node.parent_nodes
                if id(parent.operation) in inside
            ],
        )
        for operation in model.operations
    ]


@contextlib.contextmanager
def kept_losses(model: keras.Layer) -> Iterator[None]:
    """In the end `model.losses` are those of the last call before.

    Each call of a model forgets those of the call before it, also where it records none.
    """
    before = [
        (layer, list(layer._losses), set(layer._loss_ids)) for layer in all_layers(model)
    ]
    try:
        yield
    finally:
        for layer, losses, ids in before:
            layer._losses[:] = losses
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)


def new_optimizer_state(
    optimizer: keras.optimizers.Optimizer,
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Each variable of a built optimizer, with that of a new one of the same config.

    Those of the new one are not filled: read their `value` one at a time. Which weights it
    has state for, an optimizer tells nobody in public.
    """
    # A LossScaleOptimizer of Keras 3.8 leaves the list to the one inside it.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    try:
        new = type(optimizer).from_config(optimizer.get_config())
        with unfilled_variables():
            new.build(inner._trainable_variables)
    except ValueError:  # Nadam makes a variable of a value, which takes its memory
        new = type(optimizer).from_config(optimizer.get_config())
        new.build(inner._trainable_variables)
    return list(zip(optimizer.variables, new.variables, strict=True))


def initializer_modules() -> list[ModuleType]:
    """The modules in which code may find `keras.initializers.get`.

    Keras's own layers look in the first. The public one has a second name in `tf.keras`,
    and before Keras 3.9 an import statement makes another module of it.
    """
    names = (
        "keras.src.initializers",
        "keras.initializers",
        "keras.api.initializers",
        "keras._tf_keras.keras.initializers",
    )
    found = [*(sys.modules.get(name) for name in names), keras.initializers]
    return list(dict.fromkeys(module for module in found if module is not None))
