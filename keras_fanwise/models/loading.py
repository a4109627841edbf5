"""Loading a model without drawing weights that the file replaces."""

import contextlib

from keras_fanwise.seam.deferral import Block, deferring


def skip_init() -> contextlib.AbstractContextManager[Block]:
    """Inside the block, random weights are not drawn; what is not loaded is drawn after.

    Around `keras.models.load_model`, `load_weights` on a model that is built in the
    block, `from_preset` of KerasHub, or `clone_model` with `set_weights`. The random
    initializers of Keras (not their subclasses) and those of this package are put off;
    all others fill their weights as ever. At the end of the block, also if it raises,
    each weight to which nothing was assigned successfully is drawn by its own
    initializer, with the values that it would have had, and its path is listed in the
    `drawn` of what `with` gives. Every other random number of the program is as without
    the block.

    **Inside the block a weight that nothing has filled yet reads as zeros**, so a model is
    not to be called, measured, copied or saved before the block ends: that holds for
    layers, too, that compute one weight from another when they are built. Only
    `keras.Variable.assign` is seen when it happens, which is what Keras and KerasHub
    load by. A weight that something else has filled, such as `load_state_dict` of PyTorch
    or `tf.train.Checkpoint`, is kept unless all of it is 0.

    Only the thread that enters the block is concerned. Blocks can be nested: a weight
    belongs to the innermost in which it is made. A model that is dropped in the block is
    not drawn.

    Raises:
        ValueError: at the end, what an initializer raises that cannot draw its weight;
            the other weights are drawn all the same.

    Example: a new layer on old ones.

    >>> import keras
    >>> old = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, name="body")])
    >>> with skip_init() as skipped:
    ...     model = keras.models.clone_model(old)
    ...     model.set_weights(old.get_weights())
    ...     model.add(keras.layers.Dense(3, kernel_initializer="he_normal", name="head"))
    >>> [path.split("/", 1)[1] for path in skipped.drawn]
    ['head/kernel']
    """
    return deferring()
