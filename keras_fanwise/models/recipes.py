"""The named ways to start a model, each a list of rules."""

import fnmatch
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import fail
from keras_fanwise.diagnostics.paths import Paths
from keras_fanwise.fans.layers import layer_fans, layer_matrices
from keras_fanwise.graph.graph import Call, Graph
from keras_fanwise.initializers.activations import Criticality, activation_key, criticality
from keras_fanwise.initializers.base import random_state_kept
from keras_fanwise.initializers.structured import FanwiseDeltaOrthogonal, FanwiseOrthogonal
from keras_fanwise.initializers.variance_scaling import (
    FanwiseNormal,
    FanwiseSiren,
    FanwiseVarianceScaling,
)
from keras_fanwise.models.rules import ModelRules, Rule, Subject, resolved, zero_rule
from keras_fanwise.seam.weights import role

_DENSE = (keras.layers.Dense, keras.layers.EinsumDense)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_CONV = tuple(
    getattr(keras.layers, f"Conv{rank}D{kind}")
    for kind in ("", "Transpose")
    for rank in (1, 2, 3)
)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_CONVOLUTIONS = (*_CONV, *_DEPTHWISE, *_SEPARABLE)

# Tables of vectors, and vectors that are learned without one, by their usual names.
_EMBEDDINGS = "*embedding*"
_TOKENS = ("*class_token*", "*cls_token*", "*distillation_token*")
_LSTM = tuple(
    getattr(keras.layers, name)
    for name in ("LSTM", "LSTMCell", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
)
_RECURRENT = (
    keras.layers.RNN,
    keras.layers.SimpleRNNCell,
    keras.layers.LSTMCell,
    keras.layers.GRUCell,
    keras.layers.StackedRNNCells,
)


@random_state_kept()
def recipes() -> dict[str, list[Rule | ModelRules]]:
    """The named ways to start a model, each a list of rules, or of what gives rules.

    - `"dcgan"`: kernels N(0, 0.02²), but for recurrent layers, which are kept, γ N(1,
      0.02²), biases and β 0 (Radford et al. 2016, <https://arxiv.org/abs/1511.06434>,
      section 4, and for the rest their code, <https://github.com/Newmu/dcgan_code>).
    - `"kaiming"`: the same kernels `fanwise_he_normal`, biases and β 0, γ 1 (He et al.
      2015, <https://arxiv.org/abs/1502.01852>).
    - `"normal"`: the same kernels N(0, 0.02²), biases and β 0, γ 1.
    - `"glorot"`, `"he"`, `"lecun"`: kernels of all layers, recurrent ones too,
      `fanwise_glorot_uniform`, `fanwise_he_normal` or `fanwise_lecun_normal`, biases and
      β 0, but 1 for the forget gate of an LSTM, γ 1.

    - `"critical"`: a deep plain network at criticality, where signals and gradients keep
      their size through any depth (see `criticality`, for the references too). By each
      layer's activation, its own or that of the activation layer after it, kernels and
      biases have the variances at which a signal of variance q stays: q is 1/L for tanh and
      its like, where L is the number of activations, and 1 for ReLU. The first layer brings
      inputs of mean square 1 to q, the last one its input to 1, and a layer between two
      activations the q of one to the q of the other, without biases. Kernels are
      `FanwiseOrthogonal` in dense layers, `FanwiseDeltaOrthogonal` in convolutions of
      stride 1, transposed ones too, and normal in others; where a layer widens, the gain
      makes up for a signal that is spread over more units. It is an error for networks with
      branches, normalization or other layers with weights, and for activations without a
      critical point.

    - `"transformer"`: kernels, embeddings and class tokens N(0, 2 / (5 d)), where d is the
      width of the residual stream that they are part of, or, in a network without one, the
      fan_in; biases and β 0, γ 1 (Nguyen and Salazar 2019,
      <https://arxiv.org/abs/1910.05895>, section 2.2). At d = 768 the standard deviation is
      0.023.
    - `"gpt2"`: the same weights N(0, 0.02²), whatever the width (Radford et al. 2018, GPT,
      section 4.1). With `residual="depth"` as GPT-2 starts (Radford et al. 2019, section
      2.3).
    - `"deepnorm"`: transformers that normalize after each addition, with N branches:
      kernels `fanwise_glorot_normal`, those of branches, but for queries and keys, times
      (4 N)^(−1/4), biases and β 0, γ 1. The model has to multiply what goes past a branch
      by N^(1/4), which the report says (Wang et al. 2022,
      <https://arxiv.org/abs/2203.00555>, figure 2, of encoders or decoders alone).
    - `"siren"`: implicit networks with `sin(30 x)`: kernels `FanwiseSiren()`, with
      `first=True` where no kernel comes before, biases uniform within 1/√fan_in (Sitzmann
      et al. 2020, <https://arxiv.org/abs/2006.09661>, and for the biases their code,
      <https://github.com/vsitzmann/siren>).
    - `"vit"`: kernels of dense layers and attention `fanwise_glorot_uniform`, their biases
      in attention 0 and elsewhere N(0, 10⁻¹²), the convolution that makes patches
      `fanwise_lecun_normal`, position embeddings N(0, 0.02²), class tokens and the head 0,
      β 0, γ 1 (Dosovitskiy et al. 2021, <https://arxiv.org/abs/2010.11929>, and for the
      numbers their code, <https://github.com/google-research/vision_transformer>).
    - `"fixup"`: residual networks without normalization. The last weight of each of the L
      branches and the kernel of the head are 0, the other kernels of a branch with m of
      them `FanwiseVarianceScaling(2 / L ** (1 / (m - 1)))`, which has the standard
      deviation of He's times L^(−1/(2m−2)), all other kernels `fanwise_he_normal`, biases
      and β 0, γ 1 (Zhang et al. 2019, <https://arxiv.org/abs/1901.09321>, section 3; the
      scalar weights that they add are for the model to have).

    All but `"critical"` set moving means to 0 and moving variances to 1. `"glorot"`,
    `"he"`, `"lecun"` and `"fixup"` give embeddings variance 1, of which a lookup makes
    signals of variance 1, but 1 over their length in a `ReversibleEmbedding`, whose way
    back multiplies by them. Weights that no rule meets stay as they are. Whether a weight
    is a kernel, in layers of your own too, depends on its role; see `Rule`.

    Example:

    >>> recipes()["dcgan"][5]
    Rule('fanwise_gamma_noise', weight='gamma', optional=True)
    """
    return {name: [*make()] for name, make in _RECIPES.items()}


def _embeddings() -> list[Rule]:
    given = "fanwise_lecun_normal"
    rules = [Rule(given, layer=keras.layers.Embedding, weight="embeddings", optional=True)]
    both = getattr(keras.layers, "ReversibleEmbedding", None)  # from Keras 3.12 on
    if both is not None:
        forward = FanwiseVarianceScaling(mode="fan_out")
        rules = [
            Rule(forward, layer=both, weight="embeddings", optional=True),
            Rule(given, layer=both, weight="reverse_embeddings", optional=True),
            *rules,
        ]
    return rules


def _vectors(initializer: Any) -> list[Rule]:
    globs = _EMBEDDINGS, *_TOKENS
    return [Rule(initializer, weight=glob, optional=True) for glob in globs]


_LITERAL = 0.02  # as `FanwiseNormal` has it too


def literal_rules(subject: Subject) -> list[Rule]:
    """None, but a remark on what N(0, 0.02²) means at the widths of the model."""
    matrices = [owned for owned in subject.weights if role(owned).is_matrix]
    fans = {
        id(owned.variable): layer_fans(
            owned.layer, owned.variable.name, owned.variable.shape
        )
        for owned in matrices
    }
    paths = Paths(subject.graph, dict.fromkeys(fans, _LITERAL**2), fans)
    if total := paths.worst(explodes=False):
        names = [kernel.path for kernel in total.kernels]
        ends = f"{len(names)} kernels, {names[-1]} to {names[0]}"
        what = "a signal" if total.direction == "forward" else "a gradient"
        subject.remarks.append(
            f"N(0, {_LITERAL}²) whatever the width makes {what} × {total.total:.2g} over "
            f"{ends}: a recipe that goes by the fans, such as 'he', keeps it"
        )
    return []


def width_rules(subject: Subject) -> list[Rule]:
    """For the weights that a residual stream of each width goes through; see `recipes`."""
    streams = {
        id(kernel): branch.addition.shape[-1]
        for branch in subject.branches
        for kernel in branch.kernels
    }
    widths = set(streams.values())
    concerned = [*_vectors("zeros"), Rule("zeros", role="kernel")]
    weights: dict[int, list[keras.Variable]] = {}
    for owned in subject.weights:
        if any(rule.matches(owned, subject) for rule in concerned):
            variable = owned.variable
            # What is in no branch has a side in the stream, first the one that feeds it.
            sides = [size for size in reversed(variable.shape) if size in widths]
            if width := streams.get(id(variable)) or next(iter(sides), None):
                weights.setdefault(width, []).append(variable)
    return [
        Rule(FanwiseNormal(stddev=math.sqrt(2 / (5 * width))), weight=tuple(several))
        for width, several in weights.items()
    ]


# Of the names of layers, those that make the queries and keys of attention.
_QUERIES_AND_KEYS = ("*query*", "*key*", "*q_proj*", "*k_proj*", "q", "k")


def deepnorm_rules(subject: Subject) -> list[Rule]:
    """For the kernels of branches, but for queries and keys; see `recipes`."""
    branches = subject.known_branches()
    owners = {id(owned.variable): owned.layer.name for owned in subject.weights}
    scaled = tuple(
        kernel
        for branch in branches
        for kernel in branch.kernels
        if not any(
            fnmatch.fnmatchcase(owners[id(kernel)], name) for name in _QUERIES_AND_KEYS
        )
    )
    count = len(branches)
    subject.remarks.append(
        f"each of the {count} residual additions is to be {count**0.25:.4g} * x + f(x)"
    )
    scale = (4 * count) ** -0.5
    given = FanwiseVarianceScaling(scale, "fan_avg", "truncated_normal")
    return [Rule(given, weight=scaled)]


def siren_rules(subject: Subject) -> list[Rule]:
    """For the kernels that no kernel comes before; see `recipes`."""
    reached: set[Call] = set()  # by the output of a kernel
    first: dict[int, keras.Variable] = {}
    for call in subject.graph.calls:
        is_reached = any(before in reached for before in call.inputs)
        if not is_reached:
            first |= {id(kernel): kernel for kernel in call.kernels}
        if is_reached or call.kernels:
            reached.add(call)
    given = FanwiseSiren(first=True)
    return [Rule(given, weight=tuple(first.values()), optional=True)]


def _vit() -> list[Rule]:
    attention = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
    biases = FanwiseNormal(stddev=1e-6)
    return [
        Rule("zeros", layer=keras.layers.Dense, head=True, optional=True),
        *(Rule("zeros", weight=token, optional=True) for token in _TOKENS),
        Rule("fanwise_normal", weight=_EMBEDDINGS, optional=True),
        Rule("fanwise_lecun_normal", layer=_CONVOLUTIONS, weight="*kernel", optional=True),
        Rule("zeros", layer=(*attention, *_CONVOLUTIONS), weight="bias", optional=True),
        Rule(biases, layer=_DENSE, weight="bias", optional=True),
        *_all_kernels("fanwise_glorot_uniform"),
    ]


def _beside_recurrence(initializer: Any, gamma: Any = "ones") -> list[Rule]:
    kept = Rule(None, layer=_RECURRENT, optional=True)
    return [kept, *_all_kernels(initializer, gamma)]


def _all_kernels(initializer: Any, gamma: Any = "ones") -> list[Rule]:
    rms = getattr(keras.layers, "RMSNormalization", None)  # from Keras 3.9 on
    scale = [Rule(gamma, layer=rms, weight="scale", optional=True)] if rms else []
    return [
        Rule(initializer, role="kernel"),
        Rule(unit_forget_bias, layer=_LSTM, weight="bias", optional=True),
        Rule("zeros", role="bias", optional=True),
        Rule(gamma, weight="gamma", optional=True),
        *scale,
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


# Of which networks for the recipe 'critical' are made: all with one kernel.
_WITH_KERNEL = (keras.layers.Dense, *_CONV, *_DEPTHWISE)


def critical_rules(subject: Subject) -> list[Rule]:
    """A rule for each kernel and each bias of a plain network; see `recipes`."""
    stages = _stages(subject.graph)
    depth = sum(activation is not None for _, activation in stages)
    points: dict[Any, Criticality] = {}  # which take long
    rules: list[Rule] = []
    before: Criticality | None = None
    for layer, activation in stages:
        after: Criticality | None = None
        if activation is not None:
            key = activation_key(activation)
            after = points[key] = points.get(key) or _point(layer, activation, depth)
        rules += _critical(layer, before, after)
        before = after
    return rules


def _stages(graph: Graph) -> list[tuple[keras.Layer, Any]]:
    """The layers with kernels, each with the activation that its output goes through.

    `None` where there is none, and for the last layer, whose output is the network's.
    """
    if not graph.calls:
        raise _refusal("one that can be called on symbolic tensors", graph.model)
    for before, call in itertools.pairwise(graph.calls):
        if call.inputs != (before,):
            plain = (
                "a plain network without branches, in which each layer takes the output of "
                "the one before,"
            )
            raise _refusal(plain, call.operation or graph.model)
    stages: list[tuple[keras.Layer, list[Any]]] = []
    for call in graph.calls:
        if isinstance(call.operation, _WITH_KERNEL):
            stages.append((call.operation, []))
        elif call.weights:
            plain = (
                "a plain network, of layers with weights only dense layers and "
                "convolutions, plain, transposed or depthwise,"
            )
            raise _refusal(plain, call.operation)
        if call.activation and stages:
            stages[-1][1].append(call.function)
    if not stages:
        raise _refusal("one with dense layers or convolutions", graph.model)
    for layer, activations in stages:
        if len(activations) > 1:
            raise _refusal("one with at most one activation after each layer", layer)
    stages[-1][1].clear()
    return [(layer, next(iter(own), None)) for layer, own in stages]


def _refusal(needs: str, operation: Any, more: str = "") -> Exception:
    name = f"{operation.name} ({type(operation).__name__}){more}"
    return fail(ValueError, "model", f"{needs} for the recipe 'critical'", name)


def _point(layer: keras.Layer, activation: Any, depth: int) -> Criticality:
    try:
        try:
            return criticality(activation)
        except ValueError:  # it is critical along a line
            return criticality(activation, q=1 / depth)
    except (TypeError, ValueError) as error:
        points = "of activations with a critical point, such as relu, tanh, gelu and selu,"
        name = getattr(activation, "__name__", type(activation).__name__)
        raise _refusal(points, layer, f" with {name}") from error


def _critical(
    layer: keras.Layer, before: Criticality | None, after: Criticality | None
) -> list[Rule]:
    """For a layer between two activations; there may be none."""
    biases, comes = 0.0, 1.0
    if before is not None:
        # E[φ²], as σ_w² E[φ²] + σ_b² = q.
        comes = (before.q - before.bias_variance) / before.weight_variance
    if before is not None and before == after:
        scale, biases, _ = before
    else:
        # From the variance of what comes to that which the next activation wants.
        scale = (1.0 if after is None else after.q) / comes
    rules = [Rule(_isometry(layer, scale), weight=layer.kernel)]
    if layer.bias is not None:
        bias = FanwiseNormal(stddev=math.sqrt(biases)) if biases else "zeros"
        rules.append(Rule(bias, weight=layer.bias))
    return rules


def _isometry(layer: keras.Layer, scale: float) -> Any:
    """Orthogonal where that is an isometry, but for a factor, or else Gaussian."""
    matrices = layer_matrices(layer, "kernel", tuple(layer.kernel.shape))
    is_dense = isinstance(layer, keras.layers.Dense)
    if matrices is None or not (
        is_dense or (isinstance(layer, _CONV) and set(matrices.strides) <= {1})
    ):
        return FanwiseVarianceScaling(scale=scale, distribution="untruncated_normal")
    part = matrices if is_dense else matrices.central()[0]
    _, inputs, outputs = part.stack_shape
    # With fewer inputs than outputs the length of the signal is spread over more units.
    gain = math.sqrt(scale * max(1.0, outputs / max(1, inputs)))
    return FanwiseOrthogonal(gain) if is_dense else FanwiseDeltaOrthogonal(gain)


def fixup_rules(subject: Subject) -> list[Rule]:
    """For the last weight and the kernels of each branch, and the heads; see `recipes`."""
    rules = [zero_rule(subject)]
    branches = subject.branches
    for branch in branches:
        last = {id(end.kernel) for end in branch.ends if end.gamma is None}
        inner = tuple(kernel for kernel in branch.kernels if id(kernel) not in last)
        # Of a branch of one kernel, which is 0, there is nothing to scale.
        if inner and branch.length > 1:
            scale = 2.0 * len(branches) ** (-1 / (branch.length - 1))
            rules.append(Rule(FanwiseVarianceScaling(scale), weight=inner))
    return [*rules, Rule("zeros", head=True, optional=True)]


_RECIPES: dict[str, Callable[[], Sequence[Rule | ModelRules]]] = {
    "dcgan": lambda: [
        literal_rules,
        *_beside_recurrence("fanwise_normal", "fanwise_gamma_noise"),
    ],
    "kaiming": lambda: _beside_recurrence("fanwise_he_normal"),
    "normal": lambda: [literal_rules, *_beside_recurrence("fanwise_normal")],
    "glorot": lambda: [*_embeddings(), *_all_kernels("fanwise_glorot_uniform")],
    "he": lambda: [*_embeddings(), *_all_kernels("fanwise_he_normal")],
    "lecun": lambda: [*_embeddings(), *_all_kernels("fanwise_lecun_normal")],
    "critical": lambda: [critical_rules],
    "transformer": lambda: [
        width_rules,
        *_vectors(FanwiseVarianceScaling(0.4, "fan_out")),
        *_all_kernels(FanwiseVarianceScaling(0.4)),
    ],
    "gpt2": lambda: [
        literal_rules,
        *_vectors("fanwise_normal"),
        *_all_kernels("fanwise_normal"),
    ],
    "deepnorm": lambda: [
        deepnorm_rules,
        *_embeddings(),
        *_all_kernels("fanwise_glorot_normal"),
    ],
    "siren": lambda: [
        siren_rules,
        # Of variance 1 / (3 fan_in): uniform within 1 / sqrt(fan_in), as a bias in PyTorch.
        Rule(
            FanwiseVarianceScaling(1 / 3, distribution="uniform"),
            role="bias",
            optional=True,
        ),
        *_all_kernels("fanwise_siren"),
    ],
    "vit": _vit,
    "fixup": lambda: [fixup_rules, *_embeddings(), *_all_kernels("fanwise_he_normal")],
}


@random_state_kept()
def rules_of(recipe: Any) -> Sequence[Rule | ModelRules]:
    """The rules that an argument of `initialize` stands for."""
    if isinstance(recipe, Rule):
        return [recipe]
    if isinstance(recipe, Mapping):
        return [functools.partial(_by_paths, recipe)]
    if isinstance(recipe, (list, tuple)):
        if not all(isinstance(rule, Rule) or inspect.isfunction(rule) for rule in recipe):
            raise fail(TypeError, "recipe", "a list of keras_fanwise.Rule", recipe)
        if not recipe:
            raise fail(ValueError, "recipe", "a list of at least one Rule", recipe)
        return recipe
    if isinstance(recipe, str) and recipe in _RECIPES:
        return _RECIPES[recipe]()
    resolved(recipe, "recipe", tuple(_RECIPES))
    return _all_kernels(recipe)


def _by_paths(recipe: Mapping[str, Any], subject: Subject) -> list[Rule]:
    """Rules for the weights of a path each, letter by letter."""
    weights: dict[Any, list[keras.Variable]] = {}
    for owned in subject.weights:
        weights.setdefault(owned.variable.path, []).append(owned.variable)
    for path in recipe:
        if path not in weights:
            error = ValueError if isinstance(path, str) else TypeError
            allowed = f"a mapping of paths of weights, such as {next(iter(weights))!r}"
            raise fail(error, "recipe", allowed, path)
    return [Rule(recipe[path], weight=tuple(weights[path])) for path in recipe]
