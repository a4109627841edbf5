"""Which weights of a model get which initializer: rules, and recipes, lists of them."""

import contextlib
import fnmatch
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import keras
import numpy as np

from keras_fanwise.arguments import (
    choice,
    fail,
    flag,
    glob_matches,
    nearest,
    printable,
    snake_case,
)
from keras_fanwise.diagnostics.paths import Paths
from keras_fanwise.fans.layers import layer_fans, layer_matrices
from keras_fanwise.graph.branches import Branch, additions, residual_branches
from keras_fanwise.graph.graph import END, Call, Graph
from keras_fanwise.initializers.activations import Criticality, activation_key, criticality
from keras_fanwise.initializers.base import random_state_kept
from keras_fanwise.initializers.counterparts import CLASSES
from keras_fanwise.initializers.structured import FanwiseDeltaOrthogonal, FanwiseOrthogonal
from keras_fanwise.initializers.variance_scaling import (
    FanwiseNormal,
    FanwiseSiren,
    FanwiseVarianceScaling,
)
from keras_fanwise.reports.weights import ResidualBranch, ResidualReport
from keras_fanwise.seam.weights import OwnedWeight, Role, owned_weights, role

# How the branches of residual networks can begin.
RESIDUAL = ("zero", "depth")
LayerTypes = type | tuple[type, ...]


class Subject:
    """A built model, and what rules may ask of it, which is found out once."""

    def __init__(self, model: keras.Layer) -> None:
        self.graph = Graph(model)
        self.weights = owned_weights(model)
        # What rules have to tell of the model, each once; of remarks nobody is warned.
        self.notes: dict[str, None] = {}
        self.remarks: list[str] = []

    @functools.cached_property
    def branches(self) -> list[Branch]:
        return residual_branches(self.graph)

    @functools.cached_property
    def ends(self) -> set[int]:
        """The last weights of the branches, by their ids."""
        return {id(end.last) for branch in self.branches for end in branch.ends}

    @functools.cached_property
    def heads(self) -> set[int]:
        """The kernels that the output comes from, with nothing after them, by their ids."""
        inside = {id(kernel) for branch in self.branches for kernel in branch.kernels}
        return {
            id(owned.variable)
            for owned in self.weights
            if role(owned).is_matrix
            and id(owned.variable) not in inside
            and self.graph.after(owned.variable) == {END}
        }

    def known_branches(self) -> list[Branch]:
        """The residual branches, of which there must be some; notes what was not opened."""
        unopened = [
            f"{printable(layer.path or layer.name)}: {reason}"
            for layer, reason in self.graph.unopened
        ]
        if not self.branches:
            allowed = "one with residual branches for `residual`, 'fixup' and 'deepnorm'"
            received = "; ".join([self.graph.model.name, *unopened])
            raise fail(ValueError, "model", allowed, received)
        self.note("layers that could not be opened, for branches", unopened)
        return self.branches

    def note(self, what: str, lines: Sequence[str]) -> None:
        """Tells of something that there is, if there is."""
        if lines:
            self.notes[f"there are {what}: " + "; ".join(lines)] = None


@dataclass(frozen=True, eq=False, repr=False)
class Rule:
    """An initializer, and the weights that it is for: those that meet all conditions.

    Args:
        initializer: a name, an instance or a class of an initializer, of Keras or of
            this package, or a function of `shape` and `dtype`; or `None`, which keeps the
            weights as they are.
        path: a glob on the weight's path, such as `"head/*"`; `*` stands for any
            characters, slashes too. It may leave out the first layers of the path:
            `"head/*"` is also met by `"model/head/kernel"`.
        layer: a layer class, or a tuple of them. Met by weights of a layer of that
            class, also of one that is inside it: the weights of an `LSTM` belong to its
            cell, the weights of a `MultiHeadAttention` to its `EinsumDense` layers.
        weight: the weight's name, or a glob, such as `"*kernel"`; or the weight itself, or
            a tuple of weights.
        optional: whether the rule may go without a weight; by default this is an error.
        residual_end: whether it is only for the last weights of residual branches; see
            `residual_ends`.
        head: whether it is only for the kernels that the output of the model comes from,
            with no other layer with weights after them.
        role: what the weight does: `"kernel"` (signals are multiplied by it, whatever its
            name), `"matrix"` (it has the shape of a kernel), `"lookup table"`, `"scale"`,
            `"bias"`, `"state"` (what is computed or counted, not learned), or
            `"something else"`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `initializer` is not the name of one, or `role` is not one of these.

    Example:

    >>> import keras
    >>> Rule("fanwise_he_normal", layer=keras.layers.Conv2D, weight="kernel")
    Rule('fanwise_he_normal', layer=Conv2D, weight='kernel')
    """

    initializer: Any
    path: str | None = None
    layer: LayerTypes | None = None
    weight: str | keras.Variable | tuple[keras.Variable, ...] | None = None
    optional: bool = False
    residual_end: bool = False
    head: bool = False
    role: str | None = None

    @random_state_kept()
    def __post_init__(self) -> None:
        if self.initializer is not None:
            resolved(self.initializer)
        if not isinstance(self.path, (str, type(None))):
            raise fail(TypeError, "path", "a glob, such as '*kernel', or None", self.path)
        if not isinstance(self.weight, (str, type(None))) and not all(
            isinstance(weight, keras.Variable) for weight in _several(self.weight)
        ):
            allowed = "a glob, such as '*kernel', a weight, a tuple of them, or None"
            raise fail(TypeError, "weight", allowed, self.weight)
        if self.layer is not None and not all(
            isinstance(cls, type) and issubclass(cls, keras.Layer)
            for cls in _several(self.layer)
        ):
            allowed = "a subclass of keras.Layer, a tuple of them, or None"
            raise fail(TypeError, "layer", allowed, self.layer)
        for name in ("optional", "residual_end", "head"):
            flag(name, getattr(self, name))
        if self.role is not None:
            choice("role", self.role, [each.value for each in Role])

    def matches(self, owned: OwnedWeight, subject: Subject) -> bool:
        """Whether a weight of a model meets all conditions."""
        variable = owned.variable
        if isinstance(self.weight, str):
            is_named = fnmatch.fnmatchcase(variable.name, self.weight)
        else:
            is_named = any(one is None or one is variable for one in _several(self.weight))
        return (
            is_named
            and (self.path is None or glob_matches(self.path, variable.path))
            and (
                self.layer is None
                or any(isinstance(holder, self.layer) for holder in owned.holders)
            )
            and (self.role is None or role(owned).value == self.role.lower())
            and (not self.residual_end or id(variable) in subject.ends)
            and (not self.head or id(variable) in subject.heads)
        )

    def __repr__(self) -> str:
        parts = [_shown(self.initializer)]
        parts += [
            f"{field.name}={_shown(value)}"
            for field in fields(self)[1:]
            if (value := getattr(self, field.name)) is not None and value is not False
        ]
        return f"Rule({', '.join(parts)})"


# A function of a model that gives rules.
ModelRules = Callable[[Subject], Sequence[Rule]]


def _several(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        more = f" and {len(value) - 3} more" if len(value) > 3 else ""
        return f"({', '.join(map(_shown, value[:3]))}{more})"
    if isinstance(value, keras.Variable):
        return repr(value.path)
    return getattr(value, "__name__", None) or repr(value)


def resolved(
    identifier: Any, argument: str = "initializer", also: Sequence[str] = ()
) -> Any:
    """The initializer that an identifier stands for, which could also be another name."""
    try:
        initializer = keras.initializers.get(identifier)
    except (TypeError, ValueError):
        initializer = None
    if initializer is not None:
        return initializer
    allowed = "a name, an instance or a class of an initializer"
    if also:
        allowed = f"{allowed}, a list of rules, or one of {', '.join(map(repr, also))}"
    if not isinstance(identifier, str):
        raise fail(TypeError, argument, allowed, identifier)
    ours = [snake_case(cls.__name__) for cls in CLASSES]
    names = [*also, *ours, *filter(str.islower, dir(keras.initializers))]
    # As PyTorch calls Glorot's and He's, after the same authors.
    meant = identifier.lower().replace("xavier", "glorot").replace("kaiming_", "he_")
    raise fail(ValueError, argument, allowed + nearest(meant, names), identifier)


@random_state_kept()
def residual_ends(model: keras.Layer) -> ResidualReport:
    """The residual branches of a model, and the last weight of each.

    A residual branch is f in x + f(x): its result is added to its own input, perhaps after
    one kernel without an activation has brought x into the shape of f(x). Its last weight,
    which `initialize(..., residual=...)` and `Rule(..., residual_end=True)` are about, is
    its last kernel, or the γ or scale after that: with zeros there the branch gives zeros.
    Additions that join embeddings, towers, masks or the paths of a U-Net do not count.

    The model is called on symbolic tensors, and its layers are opened down to those of
    Keras; nothing in it changes. Layers that cannot be opened, as they call a backend
    directly or look at values, are listed.

    Args:
        model: a built model, or a built layer.

    Returns:
        A `ResidualReport`: print it, or read its `rows`.

    Raises:
        TypeError: `model` is not a Keras model or layer.
        ValueError: `model` has no weights yet.

    Example:

    >>> import keras
    >>> x = inputs = keras.Input((8,))
    >>> for name in "ab":
    ...     hidden = keras.layers.Dense(16, "relu")(x)
    ...     x = x + keras.layers.Dense(8, name=name)(hidden)
    >>> report = residual_ends(keras.Model(inputs, x))
    >>> [row.last for row in report.rows]
    [('a/kernel',), ('b/kernel',)]
    """
    owners = {id(o.variable): type(o.layer).__name__ for o in owned_weights(model)}
    graph = Graph(model)
    rows = []
    for branch in additions(graph):
        last = list({id(end.last): end.last for end in branch.ends}.values())
        reasons = (end.reason for end in branch.ends if end.reason)
        row = ResidualBranch(
            branch.addition.path,
            owners.get(id(last[-1]), "") if last else "",
            tuple(weight.path for weight in last),
            tuple(kernel.path for kernel in branch.kernels),
            branch.length,
            status="residual" if branch.is_residual else "other",
            reason=branch.reason or next(reasons, ""),
        )
        rows.append(row)
    for layer, reason in graph.unopened:
        path = layer.path or layer.name
        rows.append(ResidualBranch(path, status="unopened", reason=reason))
    return ResidualReport(rows, name=model.name)


def zero_rule(subject: Subject) -> Rule:
    """Zeros for the last weight of each branch that can begin there; notes the others."""
    branches = subject.known_branches()
    reasons = [
        f"{printable(branch.addition.path)}: {reason}"
        for branch in branches
        for reason in (branch.reason, *(end.reason for end in branch.ends))
        if reason
    ]
    subject.note("branches that do not start at zero", reasons)
    last = [end.last for branch in branches for end in branch.ends if not end.reason]
    return Rule("zeros", weight=tuple(last), optional=True)


_DENSE = (keras.layers.Dense, keras.layers.EinsumDense)
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
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
      their size through any depth. By each layer's activation, its own or that of the layer
      after it, kernels and biases have the variances of `criticality`, with q = 1 for ReLU
      and 1 / (number of activations) for tanh and its like. The first layer brings inputs
      of mean square 1 to q, the last one its input to 1, and a layer between two
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
    both = getattr(keras.layers, "ReversibleEmbedding", ())  # from Keras 3.12 on
    forward, given = FanwiseVarianceScaling(mode="fan_out"), "fanwise_lecun_normal"
    return [
        Rule(forward, layer=both, weight="embeddings", optional=True),
        Rule(given, layer=both, weight="reverse_embeddings", optional=True),
        Rule(given, layer=keras.layers.Embedding, weight="embeddings", optional=True),
    ]


def _vectors(initializer: Any) -> list[Rule]:
    globs = _EMBEDDINGS, *_TOKENS
    return [Rule(initializer, weight=glob, optional=True) for glob in globs]


_LITERAL = 0.02  # as `FanwiseNormal` has it too


def literal_rules(subject: Subject) -> list[Rule]:
    """None, but a remark on what N(0, 0.02²) means at the widths of the model."""
    factors = {}
    for layer, _, variable in filter(lambda one: role(one).is_matrix, subject.weights):
        fans = layer_fans(layer, variable.name, variable.shape)
        factors[id(variable)] = fans.fan_in * _LITERAL**2, fans.fan_out * _LITERAL**2
    if total := Paths(subject.graph, factors).worst(explodes=False):
        names = [kernel.path for kernel in total.kernels]
        what = "a signal" if total.direction == "forward" else "a gradient"
        subject.remarks.append(
            f"N(0, {_LITERAL}²) whatever the width makes {what} × {total.total:.2g} over "
            f"{len(names)} kernels, {names[-1]} to {names[0]}: a recipe that goes by the "
            "fans, such as 'he', keeps it"
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
    inside = {id(kernel) for branch in branches for kernel in branch.kernels}
    scaled = tuple(
        variable
        for layer, _, variable in subject.weights
        if id(variable) in inside
        and not any(fnmatch.fnmatchcase(layer.name, name) for name in _QUERIES_AND_KEYS)
    )
    count = len(branches)
    subject.remarks.append(
        f"each of the {count} residual additions is to be {count**0.25:.4g} * x + f(x)"
    )
    given = FanwiseVarianceScaling((4 * count) ** -0.5, "fan_avg")
    return [Rule(given, weight=scaled)]


def siren_rules(subject: Subject) -> list[Rule]:
    """For the kernels that no kernel comes before; see `recipes`."""
    reached: set[Call] = set()  # by the output of a kernel
    first: dict[int, keras.Variable] = {}
    for call in subject.graph.calls:
        is_reached = not reached.isdisjoint(call.inputs)
        if not is_reached:
            first |= {id(kernel): kernel for kernel in call.kernels}
        if is_reached or call.kernels:
            reached.add(call)
    kernels = tuple(first.values())
    return [Rule(FanwiseSiren(first=True), weight=kernels, optional=True)]


def _beside_recurrence(initializer: Any, gamma: Any = "ones") -> list[Rule]:
    recurrent = (
        keras.layers.RNN,
        keras.layers.SimpleRNNCell,
        keras.layers.LSTMCell,
        keras.layers.GRUCell,
        keras.layers.StackedRNNCells,
    )
    kept = Rule(None, layer=recurrent, optional=True)
    return [kept, *_all_kernels(initializer, gamma)]


def _all_kernels(initializer: Any, gamma: Any = "ones") -> list[Rule]:
    rms = getattr(keras.layers, "RMSNormalization", ())  # from Keras 3.9 on
    return [
        Rule(initializer, role="kernel"),
        Rule(unit_forget_bias, layer=_LSTM, weight="bias", optional=True),
        Rule("zeros", role="bias", optional=True),
        Rule(gamma, weight="gamma", optional=True),
        Rule(gamma, layer=rms, weight="scale", optional=True),
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
        # E[φ²] of what comes, as σ_w² E[φ²] + σ_b² = q; the input has mean square 1.
        comes = (before.q - before.bias_variance) / before.weight_variance if before else 1
        # To the variance that the next activation wants; the output has mean square 1.
        scale, biases = (after.q if after else 1) / comes, 0.0
        if after is not None and after == before:
            scale, biases, _ = after
        rules.append(Rule(_isometry(layer, scale), weight=layer.kernel))
        if layer.bias is not None:
            bias = FanwiseNormal(stddev=math.sqrt(biases)) if biases else "zeros"
            rules.append(Rule(bias, weight=layer.bias))
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
    stages: list[tuple[keras.Layer, Any]] = []
    for call in graph.calls:
        if isinstance(call.operation, (keras.layers.Dense, *_CONV, *_DEPTHWISE)):
            stages.append((call.operation, None))
        elif call.weights:
            plain = (
                "a plain network, of layers with weights only dense layers and "
                "convolutions, plain, transposed or depthwise,"
            )
            raise _refusal(plain, call.operation)
        if call.activation and stages:
            layer, activation = stages[-1]
            if activation is not None:
                raise _refusal("one with at most one activation after each layer", layer)
            stages[-1] = layer, call.function
    if not stages:
        raise _refusal("one with dense layers or convolutions", graph.model)
    return [*stages[:-1], (stages[-1][0], None)]


def _refusal(needs: str, operation: Any, more: str = "") -> Exception:
    name = f"{operation.name} ({type(operation).__name__}){more}"
    return fail(ValueError, "model", f"{needs} for the recipe 'critical'", name)


def _point(layer: keras.Layer, activation: Any, depth: int) -> Criticality:
    try:
        with contextlib.suppress(ValueError):
            return criticality(activation)
        return criticality(activation, q=1 / depth)  # it is critical along a line
    except (TypeError, ValueError) as error:
        points = "of activations with a critical point, such as relu, tanh, gelu and selu,"
        name = getattr(activation, "__name__", type(activation).__name__)
        raise _refusal(points, layer, f" with {name}") from error


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
    for branch in subject.branches:
        last = {id(end.kernel) for end in branch.ends if end.gamma is None}
        inner = tuple(kernel for kernel in branch.kernels if id(kernel) not in last)
        # Of a branch of one kernel, which is 0, there is nothing to scale.
        if inner and branch.length > 1:
            scale = 2.0 * len(subject.branches) ** (-1 / (branch.length - 1))
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
            FanwiseVarianceScaling(1 / 3, "fan_in", "uniform"), role="bias", optional=True
        ),
        *_all_kernels("fanwise_siren"),
    ],
    "vit": lambda: [
        Rule("zeros", layer=keras.layers.Dense, head=True, optional=True),
        *(Rule("zeros", weight=token, optional=True) for token in _TOKENS),
        Rule("fanwise_normal", weight=_EMBEDDINGS, optional=True),
        Rule("fanwise_lecun_normal", layer=_CONVOLUTIONS, weight="*kernel", optional=True),
        Rule("zeros", layer=(*_ATTENTION, *_CONVOLUTIONS), weight="bias", optional=True),
        Rule(FanwiseNormal(stddev=1e-6), layer=_DENSE, weight="bias", optional=True),
        *_all_kernels("fanwise_glorot_uniform"),
    ],
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
