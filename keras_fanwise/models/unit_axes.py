"""Where the units of a layer are: in its kernel, in what it gives and in its bias."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

from keras_fanwise.fans.einsum import parse_equation


class UnitAxes(NamedTuple):
    """The axes along which units stand, in the order of the units.

    Attributes:
        output: of what the layer gives before its activation.
        kernel: of the kernel.
        is_depthwise: whether the two axes of the kernel are one of the output.
    """

    output: tuple[int, ...]
    kernel: tuple[int, ...]
    is_depthwise: bool = False

    def for_kernel(self, units: np.ndarray, kernel_shape: tuple[int, ...]) -> np.ndarray:
        """A number for each unit, in a shape that multiplies the kernel."""
        shape = [1] * len(kernel_shape)
        for axis in self.kernel:
            shape[axis] = kernel_shape[axis]
        if not self.is_depthwise:
            order = np.argsort([axis % len(kernel_shape) for axis in self.kernel])
            units = units.transpose(order)
        return units.reshape(shape)


def unit_axes(layer: keras.Layer, rank: int) -> UnitAxes | None:
    """The axes of the units of a layer of Keras; `None` where they are not known.

    Args:
        layer: with a kernel.
        rank: the number of axes of what it gives.
    """
    if isinstance(layer, layers.EinsumDense):
        return _of_equation(layer.equation)
    if isinstance(layer, layers.Dense):
        return UnitAxes((rank - 1,), (1,))
    channels = 1 if _is_channels_first(layer) else rank - 1
    if isinstance(layer, (layers.DepthwiseConv1D, layers.DepthwiseConv2D)):
        return UnitAxes((channels,), (-2, -1), is_depthwise=True)
    if isinstance(
        layer, (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
    ):
        return UnitAxes((channels,), (-2,))
    if isinstance(
        layer,
        (
            layers.Conv1D,
            layers.Conv2D,
            layers.Conv3D,
            layers.SeparableConv1D,
            layers.SeparableConv2D,
        ),
    ):
        return UnitAxes((channels,), (-1,))
    return None


def _is_channels_first(layer: Any) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_first"


def _of_equation(equation: str) -> UnitAxes | None:
    if "..." in equation.split("->")[1].lstrip("."):
        return None  # axes of unknown number behind the units
    labels = parse_equation(equation)
    units = [label for label in labels.output if label in labels.kernel]
    if len(set(labels.kernel)) < len(labels.kernel):
        return None  # a diagonal
    # From the end: what an ellipsis stands for is in front.
    output = tuple(labels.output.index(label) - len(labels.output) for label in units)
    return UnitAxes(output, tuple(labels.kernel.index(label) for label in units))
