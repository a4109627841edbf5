"""Whether a signal survives the depth of a model, forward and backward."""

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras

from keras_fanwise.arguments import fail
from keras_fanwise.backends.arrays import (
    Moments,
    dtype_name,
    float64,
    is_concrete,
    moments,
    pooled,
    traced_moments,
)
from keras_fanwise.backends.private_keras import (
    all_layers,
    has_compiled_loss,
    new_compiled_loss,
)
from keras_fanwise.backends.tap import (
    LayerCall,
    Tap,
    Watch,
    compiled,
    forward_and_back,
    kept_state,
    tapped,
)
from keras_fanwise.diagnostics.batches import (
    batch_for,
    first_batch,
    given,
    normal_values,
    sizes,
)
from keras_fanwise.diagnostics.training import activation_slopes
from keras_fanwise.diagnostics.verdicts import Wired, judge
from keras_fanwise.fans.layers import unit_axes
from keras_fanwise.graph.graph import Arguments, Graph, activation_of
from keras_fanwise.reports.diagnosis import LayerSignal, SignalReport
from keras_fanwise.seam.weights import NOT_BUILT, all_weights, has_kernel


def signal(model: keras.Layer, x: Any = None, y: Any = None) -> SignalReport:
    """Sends a batch through a model and a gradient back, and measures each layer.

    Forward, of what each layer gives: mean, standard deviation, and the share of its units
    (along the channels) that are 0 for the whole batch. Backward: the standard deviation of
    the gradient that arrives there. With `y` it is the gradient of the compiled loss, as in
    training but without class weights; without `y` a random one, with an independent
    standard normal value for each value that the model gives. The model runs as in
    training: with Dropout, and with BatchNormalization by the statistics of the batch.

    A healthy model keeps both deviations of one order over its depth. The report finds
    signals that vanish or explode, with the rate per layer, layers whose units are dead,
    and values that are not finite; see `SignalReport` for the limits.

    The model, its moving statistics, its losses, its random state and its optimizer are
    as before, also after an error. Every call gives the same numbers. Other threads may
    call the model meanwhile, and are not measured.

    Args:
        model: a built model, or a built layer. Each layer of a model, and of the models
            inside it, is measured at each of its calls.
        x: a batch that the model takes; by default 32 samples (fewer if they are large,
            and as many as the model says if it does) of independent standard normal
            values, or of integers where the model takes integers. Dimensions that the
            model leaves open are 32, or what its position embeddings hold, if less; or
            1,024, where 32 are too few for it. Of a `keras.utils.PyDataset`, a
            `tf.data.Dataset`, a `DataLoader` of PyTorch or another iterable of batches the
            first is taken, with its targets if the model has a loss.
        y: what the loss compares the results of `x` with, in the structure that `fit`
            takes.

    Returns:
        A `SignalReport`: print it, `plot()` it, or read its `rows` and `findings`.

    Raises:
        TypeError: `model` is not a Keras model or layer.
        ValueError: `model` is not built; `x` is empty, all 0 or not finite, or not given
            and the model does not say what it takes; or `y` is given without `x` or to a
            model that has no loss.

    References: Glorot and Bengio 2010, <https://proceedings.mlr.press/v9/glorot10a.html>,
    equations 5 and 6; He et al. 2015, <https://arxiv.org/abs/1502.01852>, equations 9
    and 13.

    Example: LeCun's scale halves the variance in each layer of ReLUs.

    >>> import keras
    >>> from keras_fanwise import FanwiseLecunNormal
    >>> lecun = [FanwiseLecunNormal(seed=seed) for seed in range(20)]
    >>> dense = [keras.layers.Dense(256, "relu", kernel_initializer=one) for one in lecun]
    >>> report = signal(keras.Sequential([keras.Input((256,)), *dense]))
    >>> [finding.verdict.label for finding in report.findings]
    ['vanishing', 'vanishing']
    >>> round(report.forward.rate ** 2, 1), round(report.backward.rate ** 2, 1)
    (0.5, 0.5)
    """
    return measured_signal(checked(model, x, y), *first_batch(model, x, y))


def checked(model: Any, x: Any, y: Any) -> Graph:
    """The graph of a model that can be measured with these; see `signal` for errors."""
    if not isinstance(model, keras.Layer):
        raise fail(TypeError, "model", "a Keras model or layer", model)
    if not model.built:
        raise fail(ValueError, "model", NOT_BUILT, model)
    all_weights(model)  # or a layer inside itself would be followed without end
    if y is not None and x is None:
        raise ValueError("`x` must be given with `y`. Received: x=None")
    if y is not None and not (isinstance(model, keras.Model) and has_compiled_loss(model)):
        raise ValueError(
            f"`model` must be compiled with a loss, whose gradient `y` asks for. Received: "
            f"model={model}"
        )
    return Graph(model)


def measured_signal(graph: Graph, x: Any = None, y: Any = None) -> SignalReport:
    """What `signal` gives for the model of a graph, which takes a while to make."""
    model = graph.model
    with kept_state(model), keras.StatelessScope():
        if x is None:
            sent = _sent_drawn(model)
        else:
            sent = _sent(model, Arguments((given(model, x),), {}), _targets(y))
        return sent.report(sent.wired(graph))


class RepeatedSignal:
    """`measured_signal` for a batch, again and again, compiled where the model can be.

    What its code reads beside variables is then what it was at the first measurement.
    """

    def __init__(self, graph: Graph, x: Any, y: Any = None) -> None:
        self._graph, self._x, self._y = graph, x, y
        self._sent: Any = None
        self._wired: Wired | None = None
        self._function: Any = None
        if x is not None and not getattr(graph.model, "run_eagerly", False):
            self._tensors = given(graph.model, x), _targets(y)
            self._function = compiled(self._traced, graph.model.variables)

    def _traced(self, x: Any, targets: Any) -> Any:
        def see(tensor: Any, unit_axis: int | None = None) -> Any:
            return math.prod(tensor.shape), traced_moments(tensor, unit_axis)

        sent = _sent(self._graph.model, Arguments((x,), {}), targets, see)
        # The sizes alone stay: tensors of the code that is compiled hold all of it.
        self._sent = sent._replace(seen=[size for size, _ in sent.seen], loss=None)
        return keras.ops.stack([numbers for _, numbers in sent.seen]), sent.loss

    def report(self) -> SignalReport:
        model = self._graph.model
        if self._function:
            try:
                # The code of the model runs when it is called first, and not again.
                with contextlib.nullcontext() if self._sent else kept_state(model):
                    numbers, loss = self._function(*self._tensors)
            except Exception:  # whatever a backend cannot compile
                self._function = None
            else:
                numbers = float64(numbers).tolist()
                seen = [
                    Moments(size, mean, math.sqrt(variance), dead=dead)
                    for size, (mean, variance, dead) in zip(
                        self._sent.seen, numbers, strict=True
                    )
                ]
                sent: _Sent = self._sent._replace(seen=seen, loss=loss)
                self._wired = self._wired or sent.wired(self._graph)
                return sent.report(self._wired)
        return measured_signal(self._graph, self._x, self._y)


def _sent_drawn(model: keras.Layer) -> "_Sent":
    """Of a batch of 32 positions, or, if the model cannot take it, of more."""
    first, *others = sizes(model)
    try:
        with batch_for(model, first) as batch:
            sent = _sent(model, batch)
        # Of what is too short for a filter Keras 3.8 gives nothing, without an error.
        if not others or any(call.forward for call in sent.calls):
            return sent
        raise ValueError(f"nothing comes out of {model.name!r} for {first} positions")
    except Exception as error:
        for size in others:
            with contextlib.suppress(Exception), batch_for(model, size) as batch:
                return _sent(model, batch)
        note = "`x` was not given: the batch that was drawn may not suit the model"
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(note)
        raise


def measured_layers(model: keras.Layer) -> dict[keras.Layer, str]:
    """The layers of a model, and in place of models inside it their layers, with paths."""
    # Keras puts the name of a model before those of the layers that it builds, and not of
    # those that have nothing to build; here it stands before all of them, or none.
    inner = model.layers if isinstance(model, keras.Model) else []
    if not inner:
        return {model: model.path or model.name}
    scopes = [(layer.path or "").rpartition("/")[0] for layer in inner]
    scope = next((one for one in scopes if one.rpartition("/")[2] == model.name), "")
    paths: dict[keras.Layer, str] = {}
    for layer in inner:
        for measured, path in measured_layers(layer).items():
            whole = f"{scope}/{path}" if scope and "/" not in path else path
            paths.setdefault(measured, whole)
    return paths


@dataclass(eq=False)
class _MeasuredCall:
    """A call of a layer: the places, among what was seen, of the tensors that it gave."""

    layer: keras.Layer
    path: str
    number: int
    depth: int
    # Of a recurrent layer also what it took: it may change that at each step.
    taken: list[int]
    sent_back: list[int]
    shape: tuple[int, ...] = ()
    forward: list[int] = field(default_factory=list)
    backward: list[int] = field(default_factory=list)
    slopes: list[int] = field(default_factory=list)

    def unit_axis(self, rank: int) -> int:
        return unit_axes(self.layer, None, rank)[0]

    def row(self, seen: Sequence[Moments]) -> LayerSignal:
        def found(places: Sequence[int]) -> Moments | None:
            return pooled(seen[place] for place in places) if places else None

        values, rank = pooled(seen[place] for place in self.forward), len(self.shape)
        taken, slopes = found(self.taken), found(self.slopes)
        backward, sent_back = found(self.backward), found(self.sent_back)
        return LayerSignal(
            path=self.path,
            call=self.number,
            layer=type(self.layer).__name__,
            depth=self.depth,
            shape=self.shape,
            units=self.shape[self.unit_axis(rank)] if rank > 1 else 1,
            mean=values.mean,
            std=values.std,
            dead=values.dead,
            gradient_std=backward and backward.std,
            input_rms=taken and math.hypot(taken.mean, taken.std),
            input_gradient_std=sent_back and sent_back.std,
            slope=slopes and slopes.mean,
        )


class _Sent(NamedTuple):
    """A batch that was sent through a model, and back."""

    calls: list[_MeasuredCall]
    seen: list[Any]  # the moments of each tensor
    loss: Any  # `None` without targets

    def rows(self) -> list[LayerSignal]:
        return [call.row(self.seen) for call in self.calls if call.forward]

    def wired(self, graph: Graph) -> Wired:
        layers = [call.layer for call in self.calls if call.forward]
        return Wired(self.rows(), layers, graph)

    def report(self, wired: Wired) -> SignalReport:
        report = judge(self.rows(), wired)
        report.loss = None if self.loss is None else float(float64(self.loss))
        return report


def _targets(y: Any) -> Any:
    return None if y is None else keras.tree.map_structure(keras.ops.convert_to_tensor, y)


def _measured(tensor: Any, unit_axis: int | None = None) -> Moments | None:
    """`None` inside code that is being compiled."""
    return moments(tensor, unit_axis) if is_concrete(tensor) else None


def _sent(
    model: keras.Layer, batch: Arguments, targets: Any = None, see: Any = _measured
) -> _Sent:
    """The calls of the layers, in their order; with targets what comes back is of the loss.

    `see` measures a tensor.
    """
    calls: list[_MeasuredCall] = []
    seen: list[Any] = []
    loss: Any = None
    paths = measured_layers(model)
    numbers: Counter[keras.Layer] = Counter()

    def keep(places: list[int], tensor: Any, unit_axis: int | None = None) -> None:
        found = see(tensor, unit_axis)
        if found is not None:
            places.append(len(seen))
            seen.append(found)

    def measured(call: LayerCall, tap: Tap) -> Any:
        layer = call.layer

        def watched(tensors: Any, forward: Any, backward: list[int]) -> Any:
            watch = Watch(forward, functools.partial(keep, backward))
            return keras.tree.map_structure(
                lambda tensor: tap(tensor, watch) if _is_float(tensor) else tensor, tensors
            )

        taken: list[int] = []
        sent_back: list[int] = []
        inner = all_layers(layer) if call.args else []
        if any(isinstance(one, keras.layers.RNN) for one in inner):
            first, *others = call.args
            first = watched(first, functools.partial(keep, taken), sent_back)
            call = call._replace(args=(first, *others))
        output = call.output()
        numbers[layer] += 1
        depth = (calls[-1].depth if calls else 0) + has_kernel(layer)
        one = _MeasuredCall(layer, paths[layer], numbers[layer], depth, taken, sent_back)
        calls.append(one)

        def given_out(tensor: Any) -> None:
            one.shape = one.shape or tuple(tensor.shape)
            keep(one.forward, tensor, one.unit_axis(len(tensor.shape)))
            name = activation_of(layer)
            if name != "softmax":  # which may choose one of its inputs on purpose
                slopes = activation_slopes(name, tensor)
                if slopes is not None:
                    keep(one.slopes, slopes)

        return watched(output, given_out, one.backward)

    def run(tap: Tap) -> list[Any]:
        with tapped(paths, functools.partial(measured, tap=tap)):
            outputs = model(*batch.positional, training=True, **batch.named)
            if targets is None:
                return list(filter(_is_float, keras.tree.flatten(outputs)))
            with new_compiled_loss(model):
                x = batch.positional[0]
                return [model.compute_loss(x=x, y=targets, y_pred=outputs)]

    def cotangents(results: Any) -> list[Any]:
        nonlocal loss
        if targets is not None:
            (loss,) = results
            return [keras.ops.ones_like(loss)]
        return [
            normal_values(tuple(result.shape), dtype_name(result), f"cotangent {number}")
            for number, result in enumerate(results)
        ]

    forward_and_back(run, cotangents)
    return _Sent(calls, seen, loss)


def _is_float(tensor: Any) -> bool:
    return (
        keras.ops.is_tensor(tensor)
        and "float" in dtype_name(tensor)
        and 0 not in tensor.shape
    )
