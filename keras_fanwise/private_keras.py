"""The only module that reaches into `keras.src`, which Keras may change at any time."""

import keras
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
