"""The named ways to start a model, each a list of rules."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import fail
from keras_fanwise.initializers.randomness import random_state_kept
from keras_fanwise.models.critical import CriticalRule
from keras_fanwise.models.rules import Rule, resolved
from keras_fanwise.seam.owners import FIXED_KERNELS, OwnedWeight

_DENSE = (keras.layers.Dense, keras.layers.EinsumDense)
_CONVOLUTIONS = tuple(
    getattr(keras.layers, f"{kind}{rank}")
    for kind, ranks in (
        ("Conv", ("1D", "2D", "3D", "1DTranspose", "2DTranspose", "3DTranspose")),
        ("DepthwiseConv", ("1D", "2D")),
        ("SeparableConv", ("1D", "2D")),
    )
    for rank in ranks
)


_LSTM = tuple(
    getattr(keras.layers, name)
    for name in ("LSTM", "LSTMCell", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
)


class _AtPath(Rule):
    """For one path, letter by letter."""

    def matches(self, owned: OwnedWeight) -> bool:
        """Whether a weight has the path."""
        return bool(owned.variable.path == self.path)


class _LearnedKernels(Rule):
    """Leaves kernels alone that are computed, not learned."""

    def matches(self, owned: OwnedWeight) -> bool:
        """Whether a weight meets all conditions."""
        return super().matches(owned) and not isinstance(owned.layer, FIXED_KERNELS)


@random_state_kept()
def recipes() -> dict[str, list[Rule]]:
    """The named ways to start a model, each a list of rules.

    - `"dcgan"`: kernels of dense layers and convolutions N(0, 0.02²), γ N(1, 0.02²), their
      biases and β 0 (Radford et al. 2016, <https://arxiv.org/abs/1511.06434>, section 4,
      and the code of its authors).
    - `"kaiming"`: the same kernels `fanwise_he_normal`, their biases and β 0, γ 1 (He et
      al. 2015, <https://arxiv.org/abs/1502.01852>).
    - `"normal"`: the same kernels N(0, 0.02²), their biases and β 0, γ 1.
    - `"glorot"`, `"he"`, `"lecun"`: kernels of all layers, recurrent ones too,
      `fanwise_glorot_uniform`, `fanwise_he_normal` or `fanwise_lecun_normal`, biases and
      β 0, but 1 for the forget gate of an LSTM, γ 1.

    - `"critical"`: a deep plain network at criticality, where signals and gradients keep
      their size through any depth (see `criticality`, for the references too). It reads
      each layer's activation, its own or that of the activation layer behind it, and
      counts the L layers with one. The variance q of the signal before an activation
      becomes that of its critical point, 1/L for tanh and its like, 1 for ReLU. Between
      layers of the same activation kernels have its weight variance, biases its bias
      variance; the first layer brings inputs of mean square 1 to q, the last one what comes
      to 1, and others q to q, without biases. Kernels of dense layers are
      `FanwiseOrthogonal`, those of convolutions with stride 1, transposed ones too,
      `FanwiseDeltaOrthogonal`, and those of other convolutions normal with the variance
      over fan_in. Where a layer widens, the gain makes up for a signal that is spread over
      more units. It is an error for networks with branches, normalization or other layers
      with weights, and for activations without a critical point.

    All others set moving means to 0 and moving variances to 1. What no rule names, such
    as embeddings, stays as it is.

    Example:

    >>> recipes()["dcgan"][2]
    Rule('fanwise_gamma_noise', weight='gamma', optional=True)
    """
    return {
        "dcgan": _dense_and_convolutions("fanwise_normal", "fanwise_gamma_noise"),
        "kaiming": _dense_and_convolutions("fanwise_he_normal"),
        "normal": _dense_and_convolutions("fanwise_normal"),
        "glorot": _all_kernels("fanwise_glorot_uniform"),
        "he": _all_kernels("fanwise_he_normal"),
        "lecun": _all_kernels("fanwise_lecun_normal"),
        "critical": [CriticalRule()],
    }


def _dense_and_convolutions(initializer: Any, gamma: Any = "ones") -> list[Rule]:
    layers = (*_DENSE, *_CONVOLUTIONS)
    return [
        Rule(initializer, layer=layers, weight="*kernel"),
        Rule("zeros", layer=layers, weight="bias", optional=True),
        *_normalization(gamma),
    ]


def _all_kernels(initializer: Any) -> list[Rule]:
    return [
        _LearnedKernels(initializer, weight="*kernel"),
        Rule(unit_forget_bias, layer=_LSTM, weight="bias", optional=True),
        Rule("zeros", weight="bias", optional=True),
        *_normalization("ones"),
    ]


def _normalization(gamma: Any) -> list[Rule]:
    return [
        Rule(gamma, weight="gamma", optional=True),
        Rule("zeros", weight="beta", optional=True),
        Rule("zeros", weight="moving_mean", optional=True),
        Rule("ones", weight="moving_variance", optional=True),
    ]


def unit_forget_bias(shape: Sequence[int], dtype: Any = None) -> np.ndarray:
    """The bias of an LSTM: 1 for the forget gate, the second of four, and 0 for the rest.

    Reference: Jozefowicz et al. 2015, <https://proceedings.mlr.press/v37/jozefowicz15.html>,
    who find that it closes the gap between the LSTM and the GRU. Keras's default too.
    """
    values = np.zeros(shape, keras.backend.standardize_dtype(dtype))
    units = shape[0] // 4
    values[units : 2 * units] = 1
    return values


@random_state_kept()
def rules_of(recipe: Any) -> list[Rule]:
    """The rules that an argument of `initialize` stands for.

    Raises:
        TypeError: it is a list of something other than rules.
        ValueError: it is an unknown name, or empty.
    """
    if isinstance(recipe, Rule):
        return [recipe]
    if isinstance(recipe, Mapping):
        if not recipe:
            raise fail(ValueError, "recipe", "a mapping of at least one path", recipe)
        return [_AtPath(initializer, path) for path, initializer in recipe.items()]
    if isinstance(recipe, (list, tuple)):
        if not all(isinstance(rule, Rule) for rule in recipe):
            raise fail(TypeError, "recipe", "a list of keras_fanwise.Rule", recipe)
        if not recipe:
            raise fail(ValueError, "recipe", "a list of at least one Rule", recipe)
        return list(recipe)
    known = recipes()
    if isinstance(recipe, str) and recipe in known:
        return known[recipe]
    resolved(recipe, "recipe", tuple(known))
    return _all_kernels(recipe)
