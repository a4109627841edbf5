"""Initializers that give a weight a structure, which is made whole on the host."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import choice, fail, integer, positive, real
from keras_fanwise.fans.layers import (
    Matrices,
    is_convolutional_cell,
    layer_matrices,
    shape_matrices,
)
from keras_fanwise.initializers.base import Distribution, FanwiseInitializer, Seed, Site
from keras_fanwise.sampling.orthonormal import orthonormal
from keras_fanwise.sampling.quantile import log
from keras_fanwise.sampling.sampler import Stream

# Elements of matrices that are made orthonormal at a time.
_TOGETHER = 2**18


class _DrawnWhole(FanwiseInitializer):
    """Base of those whose weight is made whole on the host, and a part taken of it."""

    whole_values: Callable[..., np.ndarray]  # of (stream, shape, dtype, site)

    def sample(
        self,
        stream: Stream,
        distribution: Distribution,
        shape: tuple[int, ...],
        dtype: str,
        index: Sequence[slice] | None = None,
        site: Site | None = None,
    ) -> np.ndarray:
        values = self.whole_values(stream, shape, dtype, site)
        return values if index is None else values[tuple(index)]


def _site_matrices(shape: Sequence[int], site: Site | None) -> Matrices | None:
    """Those of a weight, by its layer; outside one by the shape, and `None` for vectors."""
    if site is None:
        return shape_matrices(shape)
    return layer_matrices(site.layer, site.name, shape)


class FanwiseOrthogonal(_DrawnWhole):
    """Draws orthogonal matrices, distributed by Haar's measure.

    A matrix W from inputs to outputs, over the axes that the linear map of the layer has,
    has orthonormal columns times `gain` (`WᵀW = gain² I`), or rows (`WWᵀ = gain² I`) if
    there are fewer inputs than outputs: all its singular values are `gain`. There is one

    - for each gate of the kernels of SimpleRNN, LSTM, GRU and ConvLSTM;
    - for each group of a convolution, whose inputs are flattened over the receptive field
      (of a transposed convolution its outputs are);
    - for each channel of a depthwise kernel, from the receptive field to its filters;
    - for each value of a batch label of `EinsumDense`, one that inputs, kernel and outputs
      have, such as heads.

    Outside a layer, and in layers that this package does not know, the last axis are
    outputs and the others inputs, as in `keras.initializers.Orthogonal`. It is drawn in
    float64, to 1e-12, with the same bits on every machine, and rounded once.

    Args:
        gain: a number above 0, by which the matrices are multiplied.
        seed: as of `FanwiseInitializer`.

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
        return self.whole(shape, site), ()

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
        matrices = _site_matrices(shape, site)
        if matrices is None:
            raise fail(ValueError, "shape", "of two axes or more", tuple(shape))
        return matrices


class FanwiseDeltaOrthogonal(FanwiseOrthogonal):
    """Draws convolution kernels that are orthogonal at the central tap, and 0 elsewhere.

    A tap is one position of a kernel. At the central one stands a matrix of
    `FanwiseOrthogonal`: where the number of channels grows the layer keeps the length of
    every signal, and where it shrinks that of every gradient. All singular values of the
    convolution are `gain`, which makes plain convolutional networks of a thousand layers
    trainable.

    It fills the kernels of convolutions of every rank: plain, in groups (each on its own),
    transposed, depthwise, separable and ConvLSTM (each gate on its own). With strides the
    central block of taps, as large as the stride, is orthogonal when it is flattened: one
    tap alone would not read the positions between. In a causal convolution it is the last
    tap.

    Outside a layer, and in layers that this package does not know, the axes of a shape are
    taps, inputs and outputs, in this order, without strides.

    Args:
        gain: a number above 0, such as the square root of the `weight_variance` that
            `criticality` gives for an activation.
        seed: as of `FanwiseInitializer`.

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
    if all(s <= whole.shape[k] for s, k in zip(whole.strides, whole.taps, strict=True)):
        return
    _, few, many = part.stack_shape
    reached, near, far = "reads", "inputs", "outputs"
    if whole.is_transposed:
        few, many, reached, near, far = many, few, "reaches", far, near
    if many <= few:
        return  # it keeps the length of gradients, or of signals if it is transposed
    allowed = (
        f"of a kernel that is as large as its strides {whole.strides}, for there is no "
        f"isometry: no tap {reached} some of the {near}, and the {few} that one "
        f"position {reached} are fewer than its {many} {far}"
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


class FanwiseDirac(_DrawnWhole):
    """The identity: what goes into a layer comes out of it, times `gain`.

    If there are more outputs than inputs, the further outputs are 0, and with ReLU after
    them they stay so, as no gradient comes back; if there are fewer, the first inputs come
    out. This holds for each group of a convolution, and for each channel of a depthwise
    one. With strides every `strides`-th position comes out of a convolution, and the
    positions between those that come out of a transposed convolution are 0.

    It fills kernels of dense layers, `EinsumDense` and convolutions of every rank: plain,
    in groups, causal, depthwise, separable and transposed; and the kernels of `SimpleRNN`.
    A kernel of even size that is dilated has no tap at the position of its output: there
    the input comes back shifted by half of the dilation.

    Outside a layer, and in layers that this package does not know, the axes of a shape are
    taps, inputs and outputs, in this order.

    Args:
        gain: a number other than 0, by which the identity is multiplied.

    Raises:
        TypeError: `gain` is not a number.
        ValueError: `gain` is 0 or not finite; or the weight is no such kernel: it has less
            than two axes, is a lookup table, or has several gates.

    References: Zagoruyko and Komodakis 2017, <https://arxiv.org/abs/1706.00388>, section 3;
    Le et al. 2015, <https://arxiv.org/abs/1504.00941>, for `SimpleRNN`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> layer = keras.layers.Conv1D(
    ...     2, 3, padding="same", kernel_initializer="fanwise_dirac")
    >>> x = np.arange(12.0).reshape(1, 6, 2)
    >>> bool(np.all(keras.ops.convert_to_numpy(layer(x)) == x))
    True
    """

    is_fixed = True

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__(0)
        self.gain = real("gain", gain)
        if self.gain == 0.0:
            raise fail(ValueError, "gain", "a number other than 0", gain)

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """The mean and the standard deviation over all elements, with the zeros."""
        _, part, _ = self._matrices(shape, site)
        count, rows, columns = part.stack_shape
        # Of the elements that are not 0.
        share = count * min(rows, columns) / max(1, math.prod(shape))
        std = abs(self.gain) * math.sqrt(share * (1.0 - share))
        return Distribution("dirac", std, self.gain * share)

    def whole_values(
        self, stream: Stream, shape: tuple[int, ...], dtype: str, site: Site | None
    ) -> np.ndarray:
        whole, part, place = self._matrices(shape, site)
        values = np.zeros(whole.shape)
        count, rows, columns = part.stack_shape
        values[place] = part.unstack(np.tile(np.eye(rows, columns), (count, 1, 1)))
        return self.gain * values.reshape(shape)

    def get_config(self) -> dict[str, Any]:
        return {"gain": self.gain}

    def _matrices(
        self, shape: Sequence[int], site: Site | None
    ) -> tuple[Matrices, Matrices, tuple[slice, ...]]:
        whole = _site_matrices(shape, site)
        if (
            whole is None
            or whole.is_lookup
            or (whole.parts == "gates" and whole.stack_shape[0] > 1)
        ):
            allowed = (
                "the shape of the kernel of a dense layer, a convolution or a SimpleRNN, "
                "not of a lookup table or of several gates"
            )
            raise fail(ValueError, "shape", allowed, tuple(shape))
        return whole, *whole.central(single=True)


INTERPOLATIONS = ("bilinear", "nearest")


class FanwiseUpsampling(_DrawnWhole):
    """Makes a transposed convolution enlarge its input as `keras.ops.image.resize` does.

    The factor is the stride of the layer, for each axis. Each channel is enlarged by
    itself; away from the border the output equals `keras.ops.image.resize` with the same
    interpolation (for images; one and three axes work alike). With `padding="valid"` the
    enlarged image stands in the middle of the output.

    Along an axis of stride s the tap that is d positions from the first of the central s
    has the weight `1 - |d - (s - 1)/2| / s` where that is above 0 (bilinear), or 1 for d
    from 0 to s - 1 (nearest). The kernel needs `2s - s % 2` taps or more for the first, as
    4 for a stride of 2 and 5 for one of 3, and s for the second.

    Args:
        interpolation: `"bilinear"` or `"nearest"`.

    Raises:
        TypeError: `interpolation` is not a string.
        ValueError: it is unknown; or the weight is not the kernel of a transposed
            convolution with as many outputs as inputs, without dilation, and large enough
            for its strides. Outside a layer there are no strides.

    Reference: Long et al. 2015, <https://arxiv.org/abs/1411.4038>, section 3.3, which
    starts transposed convolutions by bilinear interpolation.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> layer = keras.layers.Conv2DTranspose(
    ...     1, 4, strides=2, padding="same", kernel_initializer="fanwise_upsampling")
    >>> x = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype("float32")
    >>> resized = keras.ops.image.resize(x, (16, 16), "bilinear")
    >>> difference = keras.ops.convert_to_numpy(layer(x) - resized)[:, 1:-1, 1:-1]
    >>> bool(np.abs(difference).max() < 1e-6)
    True
    """

    is_fixed = True

    def __init__(self, interpolation: str = "bilinear") -> None:
        super().__init__(0)
        self.interpolation = choice("interpolation", interpolation, INTERPOLATIONS)

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """The mean and the standard deviation over all elements, with the zeros."""
        values = self.whole_values(None, tuple(shape), "float64", site)
        spread, mean = (values.std(), values.mean()) if values.size else (0.0, 0.0)
        return Distribution("upsampling", float(spread), float(mean))

    def get_config(self) -> dict[str, Any]:
        return {"interpolation": self.interpolation}

    def whole_values(
        self, stream: Any, shape: tuple[int, ...], dtype: str, site: Site | None
    ) -> np.ndarray:
        whole = _site_matrices(shape, site)
        if site is None or whole is None or not whole.is_transposed:
            allowed = (
                "the shape of the kernel of a transposed convolution, inside a layer, "
                "whose strides say by which factor it enlarges"
            )
            raise fail(ValueError, "shape", allowed, shape)
        if shape[-1] != shape[-2]:
            allowed = "of as many outputs as inputs, as each channel is enlarged by itself"
            raise fail(ValueError, "shape", allowed, shape)
        if any(rate > 1 for rate in site.layer.dilation_rate):
            allowed = "the shape of a kernel without dilation, which leaves gaps"
            raise fail(ValueError, "shape", allowed, shape)
        _, place = whole.central()
        values = np.eye(shape[-1])
        for axis, stride in reversed([*zip(whole.taps, whole.strides, strict=True)]):
            size = shape[axis]
            bilinear = self.interpolation == "bilinear"
            least = 2 * stride - stride % 2 if bilinear else stride
            if size < least:
                allowed = (
                    f"of {least} taps or more along axis {axis}, where the stride is "
                    f"{stride}, for {self.interpolation} interpolation"
                )
                raise fail(ValueError, "shape", allowed, shape)
            taps = np.arange(size) - place[axis].start
            if bilinear:
                line = np.maximum(0.0, 1.0 - np.abs(taps - (stride - 1) / 2) / stride)
            else:
                line = ((taps >= 0) & (taps < stride)).astype(np.float64)
            values = np.multiply.outer(line, values)
        return values


class FanwiseSubpixel(_DrawnWhole):
    """Starts a convolution before `keras.ops.depth_to_space` without a checkerboard.

    Of the outputs of such a convolution `factor**2` become one channel of a larger image:
    they are its phases. Drawn independently they give it a pattern of `factor` by `factor`
    from the start. Here the kernels of all phases of a channel are equal, so that the image
    is one that is enlarged by repeating pixels (ICNR). One phase is drawn by `initializer`,
    with its fans: fan_out is smaller by the number of phases.

    Phases are told as `keras.ops.depth_to_space` reads them: with channels last they are
    outputs c, c + C, c + 2C, … of C channels, with channels first `factor**2` outputs that
    follow each other.

    It fills the kernels of convolutions without groups, of `rank` axes with `factor**rank`
    phases, the pointwise kernels of separable ones, and kernels of dense layers (with
    `factor**2`).

    Args:
        initializer: of this package, or its name: what one phase is drawn by. Its seed is
            the seed of the whole.
        factor: by which `depth_to_space` enlarges: an integer of 2 or more.

    Raises:
        TypeError: `factor` is not an integer.
        ValueError: `initializer` is not one of this package, or not with the portable
            sampler; `factor` is out of range; or the weight is no such kernel, or its
            outputs are not a multiple of the phases.

    Reference: Aitken et al. 2017, <https://arxiv.org/abs/1707.02937>.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> layer = keras.layers.Conv2D(4 * 3, 3, kernel_initializer=FanwiseSubpixel(factor=2))
    >>> layer.build((None, 8, 8, 16))
    >>> phases = np.split(keras.ops.convert_to_numpy(layer.kernel), 4, axis=-1)
    >>> all(np.array_equal(phase, phases[0]) for phase in phases)
    True
    """

    def __init__(self, initializer: Any = "fanwise_he_normal", factor: int = 2) -> None:
        try:
            inner = keras.initializers.get(initializer)
        except (TypeError, ValueError):
            inner = None
        if not isinstance(inner, FanwiseInitializer) or inner.sampler != "portable":
            allowed = (
                "an initializer of keras_fanwise with the portable sampler, or its name"
            )
            raise fail(ValueError, "initializer", allowed, initializer)
        super().__init__(inner._init_seed)
        self.initializer = inner
        self.factor = integer("factor", factor, 2, 2**16)

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """The mean and the standard deviation of one phase."""
        shape, site = self._phase(tuple(shape), site)
        one = self.initializer.expected(shape, site)
        return Distribution("subpixel", one.std, one.mean)

    def whole_values(
        self, stream: Stream, shape: tuple[int, ...], dtype: str, site: Site | None
    ) -> np.ndarray:
        one, place = self._phase(shape, site)
        drawn = self.initializer.expected(one, place)
        phase = self.initializer.sample(stream, drawn, one, dtype, None, place)
        several = np.broadcast_to(phase, (shape[-1] // max(1, one[-1]), *one))
        return np.moveaxis(several, 0, _phase_axis(site)).reshape(shape)

    def one_phase(self, values: np.ndarray, site: Site) -> tuple[np.ndarray, Site] | None:
        """What all phases are, as a weight of its own; `None` if they differ."""
        one, place = self._phase(values.shape, site)
        axis, count = _phase_axis(site), values.shape[-1] // max(1, one[-1])
        split = (one[-1], count) if axis == -1 else (count, one[-1])
        phases = np.moveaxis(values.reshape(*one[:-1], *split), axis, 0)
        is_one = place is not None and bool(np.all(phases == phases[0]))
        return (phases[0], place) if is_one and place else None

    def get_config(self) -> dict[str, Any]:
        inner = keras.saving.serialize_keras_object(self.initializer)
        return {"initializer": inner, "factor": self.factor}

    def _phase(
        self, shape: tuple[int, ...], site: Site | None
    ) -> tuple[tuple[int, ...], Site | None]:
        """The shape of the kernel of one phase, and it as a weight of the layer."""
        whole = _site_matrices(shape, site)
        if (
            whole is None
            or whole.is_lookup
            or whole.is_transposed
            or whole.stack_shape[0] > 1
            or whole.outputs != (len(whole.shape) - 1,)
        ):
            allowed = (
                "the shape of the kernel of a dense layer or convolution, neither in "
                "groups nor depthwise nor transposed, before a depth_to_space"
            )
            raise fail(ValueError, "shape", allowed, shape)
        phases = self.factor ** (len(whole.taps) or 2)
        if shape[-1] % phases:
            allowed = (
                f"of a multiple of {phases} outputs, the phases of a channel "
                f"(factor={self.factor})"
            )
            raise fail(ValueError, "shape", allowed, shape)
        one = (*shape[:-1], shape[-1] // phases)
        if site is None:
            return one, None
        place = Site.of(site.layer, site.name, one, site.key)
        return one, place._replace(path=site.path)


def _phase_axis(site: Site | None) -> int:
    """Where the phases are in the order of the outputs: before the channels, or after."""
    layer = site and site.layer
    return -1 if getattr(layer, "data_format", None) == "channels_first" else -2


class FanwiseChronoBias(_DrawnWhole):
    """Biases of the gates of an LSTM or GRU that remembers over up to `longest` steps.

    A gate whose bias is b forgets over about 1 + exp(b) steps. The biases of the forget
    gate of an LSTM are log U(1, longest - 1), those of its input gate the negative of the
    same numbers, and the rest is 0. The update gate of a GRU, which keeps the state, has
    the biases of a forget gate. So the units begin with memories of all lengths up to
    `longest`, uniformly.

    For `bias_initializer` of `LSTM`, `GRU` and `ConvLSTM*`, and of their cells. An LSTM
    needs `unit_forget_bias=False`: Keras would put 1 in the place of these biases.

    Args:
        longest: over how many steps things depend on each other: a number above 2.
        seed: as of `FanwiseInitializer`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range; the weight is not the bias of such a
            layer; or its `unit_forget_bias` is true.

    Reference: Tallec and Ollivier 2018, <https://arxiv.org/abs/1804.11188>, equation 16
    and section 3.

    Example:

    >>> import keras
    >>> layer = keras.layers.LSTM(
    ...     32, unit_forget_bias=False, bias_initializer=FanwiseChronoBias(longest=100))
    >>> layer.build((None, 100, 4))
    >>> forget = keras.ops.convert_to_numpy(layer.cell.bias)[32:64]
    >>> bool(0 < forget.min() < forget.max() < 4.6)  # log 99
    True
    """

    def __init__(self, longest: float, seed: Seed = None) -> None:
        super().__init__(seed)
        self.longest = real("longest", longest)
        if self.longest <= 2.0:
            raise fail(ValueError, "longest", "a number above 2", longest)

    def expected(self, shape: Sequence[int], site: Site | None = None) -> Distribution:
        """The mean and the standard deviation over all biases of the layer."""
        gates, _keeps, closes = self._gates(tuple(shape), site)
        a = self.longest - 1.0
        # Of log U(1, a).
        mean = (a * math.log(a) - a + 1.0) / (a - 1.0)
        square = (a * (math.log(a) ** 2 - 2.0 * math.log(a) + 2.0) - 2.0) / (a - 1.0)
        number = gates * (2 if len(shape) == 2 else 1)
        centre = 0.0 if closes is not None else mean / number
        count = 1 if closes is None else 2
        return Distribution(
            "chrono", math.sqrt(count * square / number - centre**2), centre
        )

    def whole_values(
        self, stream: Stream, shape: tuple[int, ...], dtype: str, site: Site | None
    ) -> np.ndarray:
        gates, keeps, closes = self._gates(shape, site)
        # A GRU that resets after its kernels has two rows, which are added: the first here.
        values = np.zeros((shape[0] if len(shape) == 2 else 1, gates, shape[-1] // gates))
        uniform = stream.draw("uniform", values.shape[-1:], "float64")
        biases = log(1.0 + (self.longest - 2.0) * (uniform + 1.0) / 2.0)
        values[0, keeps] = biases
        if closes is not None:
            values[0, closes] = -biases
        return values.reshape(shape)

    def get_config(self) -> dict[str, Any]:
        return {"longest": self.longest, "seed": super().get_config()["seed"]}

    def _gates(
        self, shape: tuple[int, ...], site: Site | None
    ) -> tuple[int, int, int | None]:
        """How many gates there are, which of them keeps, and which closes when it does."""
        cell: Any = site.layer if site and site.name == "bias" else None
        is_lstm = isinstance(cell, keras.layers.LSTMCell) or is_convolutional_cell(cell)
        if not (is_lstm or isinstance(cell, keras.layers.GRUCell)):
            allowed = "the shape of the bias of an LSTM, GRU or ConvLSTM, inside the layer"
            raise fail(ValueError, "shape", allowed, shape)
        if not is_lstm:
            return 3, 0, None  # Keras's order: update, reset, hidden
        if cell.unit_forget_bias:
            allowed = (
                "False with FanwiseChronoBias, in whose place Keras would put biases of 1"
            )
            raise fail(ValueError, "unit_forget_bias", allowed, True)
        return 4, 1, 0  # input, forget, cell, output
