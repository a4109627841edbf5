"""A forward pass in which kernels are scaled, each at the first call of its layer."""

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fanwise.backends.arrays import snapshot
from keras_fanwise.backends.calls import current_call, replaced_call
from keras_fanwise.backends.gradients import has_values
from keras_fanwise.backends.private_keras import own_variables
from keras_fanwise.backends.tensor_moments import tensor_moments
from keras_fanwise.diagnostics.batches import Arguments
from keras_fanwise.models.unit_axes import UnitAxes, unit_axes
from keras_fanwise.reports.calibration_report import CalibratedWeight
from keras_fanwise.seam.owners import OwnedWeight

# Of a layer that follows its kernel, what comes out differs from what was asked for by
# rounding alone: in bfloat16, which has 8 bits, by less than this.
_ROUNDING = 0.02
_UNCALLED = "its layer was not called"


class _Scaling(NamedTuple):
    """What the first call of a layer gave and what becomes of its weights."""

    before: float | None = None
    factor: float = 1.0
    after: float | None = None
    reason: str = ""


class ScalingPass:
    """The pass, and what becomes of each kernel.

    In it the layers run with scaled weights, which stand in a stateless scope: the model's
    own are as before.

    Attributes:
        values: after the pass, the weights that are scaled, with their new values.

    Args:
        kernels: of the model.
        reasons: why each is kept, or `""`.
        std: what is asked of what a layer gives.
        by: `"layer"` or `"unit"`.
    """

    def __init__(
        self, kernels: Sequence[OwnedWeight], reasons: Sequence[str], std: float, by: str
    ) -> None:
        self._kernels = dict(zip(map(_path, kernels), kernels, strict=True))
        self._reasons = dict(zip(map(_path, kernels), reasons, strict=True))
        self._std = std
        self._by = by
        # By path of the kernel, in the order of the calls.
        self._scalings: dict[str, _Scaling] = {}
        self.values: list[tuple[keras.Variable, Any]] = []

    def run(self, model: keras.Layer, batch: Arguments) -> None:
        """Sends a batch through the model."""
        with keras.StatelessScope() as scope, contextlib.ExitStack() as stack:
            for owned in self._kernels.values():
                called = self._called(owned)
                stack.enter_context(replaced_call(owned.layer, called))
            model(*batch.positional, training=True, **batch.named)
        scaled = [path for path, one in self._scalings.items() if not one.reason]
        for path in scaled:
            for variable in _scaled_weights(self._kernels[path]):
                self.values.append((variable, scope.get_current_value(variable)))

    def rows(self) -> list[CalibratedWeight]:
        """A row for each kernel, in the order of the calls, then those without a call."""
        rest = [path for path in self._kernels if path not in self._scalings]
        rows = []
        for path in [*self._scalings, *rest]:
            owned = self._kernels[path]
            shape = tuple(owned.variable.shape)
            row = CalibratedWeight(path, type(owned.layer).__name__, shape)
            scaling = self._scalings.get(path, _Scaling(reason=_UNCALLED))
            scaling = scaling._replace(reason=self._reasons[path] or scaling.reason)
            status = "kept" if scaling.reason else "scaled"
            rows.append(row._replace(status=status, **scaling._asdict()))
        return rows

    def _called(self, owned: OwnedWeight) -> Callable[..., Any]:
        """The layer's `call`, which scales the kernel when it is called first."""
        original, path = current_call(owned.layer), _path(owned)

        @functools.wraps(original)
        def called(*args: Any, **kwargs: Any) -> Any:
            if path not in self._scalings and not self._reasons[path]:
                self._scalings[path] = _Scaling()  # a layer may call itself
                raw = functools.partial(_raw_output, owned.layer, original, args, kwargs)
                self._scalings[path] = self._scaling(owned, raw)
            return original(*args, **kwargs)

        return called

    def _scaling(self, owned: OwnedWeight, raw: Callable[[], Any]) -> _Scaling:
        given = raw()
        if given is None:
            return _Scaling(reason="its layer gives no single tensor of a float type")
        if not has_values(given):
            return _Scaling(reason="called in compiled code")
        before = _std(given)
        if not _array(owned.variable.value).any():
            return _Scaling(before, reason="it is 0")
        if not before or not math.isfinite(before):
            return _Scaling(before, reason="what its layer gives is constant or not finite")
        axes = None
        if self._by == "unit":
            axes = unit_axes(owned.layer, len(given.shape))
            if axes is None:
                return _Scaling(before, reason="the units of its layer are not known")
        variables = _scaled_weights(owned)
        old = [snapshot(variable) for variable in variables]
        scaled: tuple[np.ndarray, float] | None
        if axes is None:
            scaled = self._scale(owned, before)
        else:
            scaled = self._by_unit(owned, _array(given), axes)
        if scaled is None:
            return _Scaling(before, reason="its bias is that of several units")
        factors, expected = scaled
        after = _std(raw())
        if abs(after - expected) <= _ROUNDING * expected:
            return _Scaling(before, float(np.median(factors)), after)
        for variable, values in zip(variables, old, strict=True):
            variable.assign(values)
        return _Scaling(before, reason="what its layer gives does not scale with it")

    def _scale(self, owned: OwnedWeight, before: float) -> tuple[np.ndarray, float]:
        """Scales the weights in the scope.

        Returns:
            The factor, and the deviation of what the layer gives if it scales with them.
        """
        factor = np.asarray(self._std / before)
        for variable in _scaled_weights(owned):
            _assign(variable, _array(variable.value) * factor)
        return factor, self._std

    def _by_unit(
        self, owned: OwnedWeight, output: np.ndarray, axes: UnitAxes
    ) -> tuple[np.ndarray, float] | None:
        """Likewise, with a factor for each unit; `None` if units share their bias."""
        kernel, bias = _array(owned.variable.value), _bias(owned)
        means, stds = _of_units(output, axes)
        factors: np.ndarray = np.ones_like(stds)
        np.divide(self._std, stds, out=factors, where=stds > 0)
        between = float(np.var(factors * means))
        if bias is not None:
            if math.prod(bias.shape) != factors.size:
                return None
            centred = factors * (_array(bias.value).reshape(means.shape) - means)
            _assign(bias, centred.reshape(tuple(bias.shape)))
            between = 0.0
        _assign(owned.variable, kernel * axes.for_kernel(factors, kernel.shape))
        return factors, math.sqrt(float(np.mean((factors * stds) ** 2)) + between)


def _path(owned: OwnedWeight) -> str:
    return str(owned.variable.path)


def _bias(owned: OwnedWeight) -> keras.Variable | None:
    """The bias that is added to what the kernel gives."""
    return next((one for one in own_variables(owned.layer) if one.name == "bias"), None)


def _scaled_weights(owned: OwnedWeight) -> list[keras.Variable]:
    """The kernel, and the bias if there is one."""
    bias = _bias(owned)
    return [owned.variable] if bias is None else [owned.variable, bias]


def _std(tensor: Any) -> float:
    """Of all values; not a number if there are none."""
    if not math.prod(tensor.shape):
        return math.nan
    return tensor_moments(keras.ops.stop_gradient(tensor)).std


def _array(value: Any) -> np.ndarray:
    """In float64, so that a factor is rounded once."""
    return np.asarray(keras.ops.convert_to_numpy(value), dtype=np.float64)


def _assign(variable: keras.Variable, values: np.ndarray) -> None:
    # JAX knows no float64 by default, and NumPy no bfloat16.
    dtype = keras.backend.standardize_dtype(variable.dtype)
    rounded = values if dtype == "float64" else values.astype("float32")
    variable.assign(keras.ops.convert_to_tensor(rounded, dtype))


def _of_units(output: np.ndarray, axes: UnitAxes) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each unit, along the axes of the units in their order."""
    units = np.moveaxis(output, axes.output, range(len(axes.output)))
    rest = tuple(range(len(axes.output), output.ndim))
    return units.mean(axis=rest), units.std(axis=rest)


def _raw_output(
    layer: keras.Layer, original: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """What a layer gives before its activation; `None` if that is no single tensor."""
    seen: list[Any] = []

    def watch(tensor: Any, *_args: Any, **_kwargs: Any) -> Any:
        seen.append(tensor)
        return tensor

    if callable(getattr(layer, "activation", None)) and _is_own_method(layer, original):
        # Not on the layer itself, which other threads may be calling.
        twin = object.__new__(type(layer))
        vars(twin).update({k: v for k, v in vars(layer).items() if k != "call"})
        vars(twin)["activation"] = watch
        outputs = type(layer).call(twin, *args, **kwargs)
    else:
        outputs = original(*args, **kwargs)
    tensors = keras.tree.flatten(seen if len(seen) == 1 else outputs)
    if len(tensors) != 1 or not keras.ops.is_tensor(tensors[0]):
        return None
    return (
        tensors[0] if "float" in keras.backend.standardize_dtype(tensors[0].dtype) else None
    )


def _is_own_method(layer: keras.Layer, original: Any) -> bool:
    return getattr(original, "__func__", None) is type(layer).call
