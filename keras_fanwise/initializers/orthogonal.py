"""Orthogonal initializers: over the axes that the layer's linear map has."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fanwise.arguments import fail, positive
from keras_fanwise.fans.layers import Matrices
from keras_fanwise.initializers.base import (
    Distribution,
    DrawnWhole,
    Seed,
    Site,
    site_matrices,
)
from keras_fanwise.sampling.orthonormal import orthonormal
from keras_fanwise.sampling.sampler import Stream

# Elements of matrices that are made orthonormal at a time.
_TOGETHER = 2**18


class FanwiseOrthogonal(DrawnWhole):
    """Draws orthogonal matrices, distributed by Haar's measure.

    A matrix W from `inputs` to `outputs`, over the axes that the linear map of the layer
    has, has orthonormal columns times `gain` (`WᵀW = gain² I`) if there are as many inputs
    as outputs or more, and orthonormal rows (`WWᵀ = gain² I`) if there are fewer: all its
    singular values are `gain`. There is one such matrix

    - for each gate of the kernels of SimpleRNN, LSTM, GRU and ConvLSTM;
    - for each group of a convolution, whose inputs are flattened over the receptive field
      (of a transposed convolution its outputs are);
    - for each channel of a depthwise kernel, from the receptive field to its filters, which
      are orthogonal as long as there are no more of them than taps;
    - for each value of a batch label of `EinsumDense`, one that inputs, kernel and outputs
      have, such as heads.

    Outside a layer, and in layers that this package does not know, the last axis are
    outputs and the others inputs, as in `keras.initializers.Orthogonal`.

    It is drawn in float64, to 1e-12, with the same bits on every machine, and rounded to
    the type of the weight.

    Args:
        gain: a number above 0, by which the matrices are multiplied.
        seed: an integer, for the same values in every run; `None`, for new ones; or a
            `keras.random.SeedGenerator`, whose state advances with every draw.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `gain` or `seed` is out of range, or a shape has less than two axes.

    References: Saxe et al. 2014, <https://arxiv.org/abs/1312.6120>; Mezzadri 2007,
    <https://arxiv.org/abs/math-ph/0609050>, for the distribution.

    Example: all four gates of an LSTM are orthogonal.

    >>> import keras
    >>> import numpy as np
    >>> cell = keras.layers.LSTMCell(8, recurrent_initializer="fanwise_orthogonal")
    >>> cell.build((None, 4))
    >>> kernel = keras.ops.convert_to_numpy(cell.recurrent_kernel)
    >>> gates = np.split(kernel, 4, axis=1)
    >>> all(np.allclose(gate.T @ gate, np.eye(8), atol=1e-6) for gate in gates)
    True
    """

    _FAMILY = "orthogonal"

    def __init__(self, gain: float = 1.0, seed: Seed = None) -> None:
        super().__init__(seed)
        self.gain = positive("gain", gain)

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """The standard deviation over all elements; of a delta kernel, with its zeros."""
        count, rows, columns = self.matrices(shape, site)[0].stack_shape
        squares = count * min(rows, columns) * self.gain**2
        return Distribution(self._FAMILY, math.sqrt(squares / max(1, math.prod(shape))))

    def matrices(
        self, shape: Sequence[int], site: Site | None = None
    ) -> tuple[Matrices, tuple[slice, ...]]:
        """The matrices that are drawn, and where in the weight, of `whole`, they are."""
        whole = self.whole(shape, site)
        return whole, (slice(None),) * len(whole.shape)

    def whole_values(
        self, stream: Stream, shape: tuple[int, ...], dtype: str, site: Site | None
    ) -> np.ndarray:
        part, place = self.matrices(shape, site)
        values = np.zeros(self.whole(shape, site).shape)
        values[place] = part.unstack(self.gain * _haar(stream, *part.stack_shape))
        return values.reshape(shape)

    def get_config(self) -> dict[str, Any]:
        return {"gain": self.gain, "seed": super().get_config()["seed"]}

    def whole(self, shape: Sequence[int], site: Site | None = None) -> Matrices:
        """The matrices of the whole weight; a ValueError for less than two axes."""
        matrices = site_matrices(shape, site)
        if matrices is None:
            raise fail(ValueError, "shape", "of two axes or more", tuple(shape))
        return matrices


class FanwiseDeltaOrthogonal(FanwiseOrthogonal):
    """Draws convolution kernels that are orthogonal at the central tap, and 0 elsewhere.

    A tap is one position of a kernel. At the central one stands an orthogonal matrix,
    distributed by Haar's measure, times `gain`: with orthonormal rows where the number of
    channels grows, so that the layer keeps the length of every signal, and orthonormal
    columns where it shrinks, so that it keeps the length of every gradient. All singular
    values of the convolution are `gain`, which makes plain convolutional networks of a
    thousand layers trainable.

    It fills the kernels of convolutions of every rank: plain, in groups (each on its own),
    transposed, depthwise, separable and ConvLSTM (each gate on its own). With strides the
    central block of taps, as large as the stride, is orthogonal when it is flattened: one
    tap alone would not read the positions between. In a causal convolution it is the last
    tap, which sees its own position.

    Outside a layer, and in layers that this package does not know, the axes of a shape are
    taps, inputs and outputs, in this order, without strides.

    Args:
        gain: a number above 0, by which the matrix is multiplied. The square root of
            the `weight_variance` at which an activation is critical makes the network so.
        seed: an integer, for the same values in every run; `None`, for new ones; or a
            `keras.random.SeedGenerator`, whose state advances with every draw.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `gain` or `seed` is out of range; or the weight is not the kernel of a
            convolution, or there is no isometry: a stride is larger than the kernel, so
            that no tap reads some positions, and there are more outputs than inputs that
            are read (in a transposed convolution, the other way round).

    Reference: Xiao et al. 2018, <https://arxiv.org/abs/1806.05393>, algorithm 1.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> layer = keras.layers.Conv2D(8, 3, kernel_initializer="fanwise_delta_orthogonal")
    >>> layer.build((None, 16, 16, 8))
    >>> kernel = keras.ops.convert_to_numpy(layer.kernel)
    >>> bool(np.allclose(kernel[1, 1].T @ kernel[1, 1], np.eye(8), atol=1e-6))
    True
    >>> int(np.count_nonzero(kernel)) == 8 * 8
    True
    """

    _FAMILY = "delta_orthogonal"

    def matrices(
        self, shape: Sequence[int], site: Site | None = None
    ) -> tuple[Matrices, tuple[slice, ...]]:
        """Those of the central taps; a ValueError if they cannot be an isometry."""
        whole = self.whole(shape, site)
        if not whole.taps:
            allowed = (
                "the shape of a convolution's kernel, whose taps have axes of their own; "
                "FanwiseOrthogonal fills others"
            )
            raise fail(ValueError, "shape", allowed, tuple(shape))
        part, place = whole.central()
        _check_isometry(whole, part, tuple(shape))
        return part, place


def _check_isometry(whole: Matrices, part: Matrices, shape: tuple[int, ...]) -> None:
    sizes = tuple(whole.shape[axis] for axis in whole.taps)
    if all(s <= k for s, k in zip(whole.strides, sizes, strict=True)):
        return
    _, rows, columns = part.stack_shape
    transposed = whole.taps[0] in whole.outputs
    few, many = (columns, rows) if transposed else (rows, columns)
    if many <= few:
        return  # it keeps the length of gradients, or of signals if it is transposed
    reached = "reaches" if transposed else "reads"
    ends = ("outputs", "inputs") if transposed else ("inputs", "outputs")
    allowed = (
        f"of a kernel that is as large as its strides {whole.strides}, for there is no "
        f"isometry: no tap {reached} some of the {ends[0]}, and the {few} that one "
        f"position {reached} are fewer than its {many} {ends[1]}"
    )
    raise fail(ValueError, "shape", allowed, shape)


def _haar(stream: Stream, count: int, rows: int, columns: int) -> np.ndarray:
    """Matrices with orthonormal columns, or rows if these are fewer; in float64."""
    tall = (count, max(rows, columns), min(rows, columns))
    matrices = stream.draw("untruncated_normal", tall, "float64")
    together = max(1, _TOGETHER // max(1, tall[1] * tall[2]))
    for start in range(0, count, together):
        several = slice(start, start + together)
        matrices[several] = orthonormal(matrices[several])
    return matrices if rows >= columns else matrices.transpose(0, 2, 1)
