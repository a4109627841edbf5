"""Whether what was meant to be orthogonal is."""

import ml_dtypes
import numpy as np

from keras_fanwise.diagnostics.measured import MeasuredWeight
from keras_fanwise.initializers.counterparts import portable
from keras_fanwise.initializers.orthogonal import FanwiseOrthogonal
from keras_fanwise.initializers.site import Site

# So far from the gain, relatively, a singular value may be: what a thousand layers do not
# feel, and LAPACK's rounding of float32 is below; and so many steps of the weight's type,
# whose rounding of a matrix moves its singular values by half a step, or by a few where
# it is small.
_SLACK, _STEPS = 1e-4, 4
# Of more matrices, or of more of their vectors, a few are looked at, evenly spread: those
# are orthonormal, too.
_MOST_MATRICES, _MOST_VECTORS = 64, 512


def broken_isometry(weight: MeasuredWeight) -> str:
    """The singular values that are not as the initializer draws them; `""` if all are.

    Of Keras's `Orthogonal` those of the matrix that it draws, not those of the layer's map.
    """
    given = weight.initializer
    draws = given if isinstance(given, FanwiseOrthogonal) else portable(given)
    if not isinstance(draws, FanwiseOrthogonal):
        return ""
    shape = weight.values.shape
    site = Site.of(weight.owned.layer, weight.name, shape)
    matrices, place = draws.matrices(shape, site)
    step = float(ml_dtypes.finfo(weight.values.dtype).eps)  # type: ignore[no-untyped-call]
    values = weight.values.reshape(-1)
    inside = values.reshape(draws.whole(shape, site).shape)[place]
    low, high = _singular_values(matrices.stack(inside))
    if max(abs(low - draws.gain), abs(high - draws.gain)) > draws.gain * (
        _SLACK + _STEPS * step
    ):
        return f"singular values from {low:.3g} to {high:.3g} where {draws.gain:g} is drawn"
    outside = np.count_nonzero(values) - np.count_nonzero(inside)
    if outside:
        return f"{outside} values beside the central taps, where 0 is drawn"
    return ""


def _singular_values(stack: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest, over all matrices."""
    rows, columns = stack.shape[1:]
    if rows < columns:
        stack = stack.transpose(0, 2, 1)
    stack = stack[_spread(len(stack), _MOST_MATRICES)]
    chosen = stack[:, :, _spread(stack.shape[2], _MOST_VECTORS)].astype(np.float64)
    squares = np.linalg.eigvalsh(chosen.transpose(0, 2, 1) @ chosen)
    singular = np.sqrt(np.maximum(squares, 0.0))
    return float(singular.min()), float(singular.max())


def _spread(count: int, most: int) -> np.ndarray:
    return np.linspace(0, count - 1, min(count, most)).astype(int)
