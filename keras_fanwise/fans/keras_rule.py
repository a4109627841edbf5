"""The fans as the installed Keras counts them."""

from collections.abc import Sequence

import keras

from keras_fanwise.fans.counting import Fans, axes_fans, shape_fans
from keras_fanwise.fans.einsum import parse_equation


def keras_fans(layer: keras.Layer, weight_name: str, shape: Sequence[int]) -> Fans:
    """The fans that the initializers of the installed Keras count for a weight.

    They follow from the shape alone, but for the kernel of an `EinsumDense`: from 3.15
    on Keras counts all its labels that reach the output as outputs and the others as
    inputs.
    """
    if (
        isinstance(layer, keras.layers.EinsumDense)
        and weight_name == "kernel"
        and hasattr(keras.initializers.VarianceScaling(), "input_axes")
    ):
        equation = parse_equation(layer.equation)
        outputs = [i for i, label in enumerate(equation.kernel) if label in equation.output]
        inputs = [i for i in range(len(shape)) if i not in outputs]
        return axes_fans(shape, inputs, outputs)
    return shape_fans(shape)
