"""What the package uses of Keras that Keras does not promise.

All that is private stands here; what is not called but relied on elsewhere is listed with
it. The test of each would notice a change.

| relied on | where | test |
|---|---|---|
| `optimizer`, `train_function` and more of models | here | `test_steps_are_taken_back` |
| the stateless scope and its variables, the symbolic one | here | `test_nothing_is_drawn_to_learn_shapes` |
| the stack of name scopes, `override_parent`, `caller` | here | `test_subclassed_models_without_build` |
| `_flatten_layers`, `_trainable_variables` of layers | here | `test_every_weight_stands_in_the_report_once` |
| `_inbound_nodes`, `_losses`, `_loss_ids` of layers | here | `test_every_kind_of_model` |
| `_outbound_nodes`, `_keras_history`, the numbers of names | here | `test_nothing_tells_of_it_afterwards` |
| `Functional` and its `call`, `_functional` of `Sequential` | here | `test_what_keras_has_recorded_is_what_a_call_does` |
| `backend.ops`, which the layers of Keras 3.16 call | here | `test_kernels_of_a_branch` |
| variables that are not filled in a stateless scope | here | `test_the_state_of_an_optimizer_is_that_of_a_new_one` |
| `_compile_loss` of models and its arguments | here | `test_the_gradient_of_the_compiled_loss` |
| its `_flat_losses`, `get_loss`, `_fn_kwargs` of losses | here | `test_the_best_constant_of_each_loss` |
| `_trainable_variables`, `inner_optimizer` of optimizers | here | `test_the_state_of_an_optimizer_is_that_of_a_new_one` |
| the attribute of Keras's own generator of random numbers | here | `test_no_generator_of_random_numbers_moves` |
| the modules in which code finds `keras.initializers.get` | here | `test_a_get_that_was_imported_by_name` |
| `ALL_OBJECTS_DICT`, the table of initializers by name | here | `test_names_resolve_where_keras_asks_its_own_table_alone` |
| the order and the defaults of `add_weight`'s arguments | `seam/binding.py` | `test_the_positional_forms_of_add_weight` |
| that a config has `trainable` and `dtype` | `seam/binding.py` | `test_a_layer_that_is_made_from_a_config_has_the_values_of_its_original` |
| how a class is named, and numbered from 1 on | `arguments.py` | `test_snake_case_is_keras_s` |
| that Bidirectional names its layers `forward_`, `backward_` | `arguments.py` | `test_a_number_of_keras_does_not_count` |
| `variable_N`, the name of a weight that has none | `seam/binding.py` | `test_weights_without_a_name_differ` |
| `bias_initializer`, the function in an LSTM cell's `build` | `initializers/counterparts.py` | `test_the_random_bias_of_an_lstm_has_a_stream_of_its_own` |
| what the cell of a `ConvLSTM2D` has | `fans/layers.py` | `test_example_of_each_layer` |
| the copy with axes that `EinsumDense` makes | `seam/record.py` | `test_the_live_attribute_of_an_einsum_follows` |
| the texts of errors of loading | `cli.py` | `test_bad_files` |
| the name of JAX's `AbstractMesh` | `backends/arrays.py` | `test_on_eight_devices` |
"""

import contextlib
import functools
import inspect
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.models.functional import Functional
from keras.src.trainers.compile_utils import get_loss

# The versions of Keras with which the tests were run.
TRIED = "3.8 to 3.16"
# What `keras.Layer.add_weight` bears as an attribute where the seam has wrapped it.
SEAM = "_keras_fanwise_seam"


def is_shape_inference(state: keras.Variable | None = None) -> bool:
    """Whether Keras is only inferring shapes, so that no value drawn now is kept."""
    # Of a generator that the scope has a state of, what is drawn is meant to be kept.
    return bool(in_symbolic_scope()) or (
        state is not None
        and is_stateless()
        and get_stateless_scope().get_current_value(state) is None
    )


def is_stateless() -> bool:
    """Whether what is assigned now goes to a stateless scope, and not to variables."""
    return bool(in_stateless_scope())


def is_made(variable: keras.Variable) -> bool:
    """Not if it was added in a stateless scope: Keras makes its value later or never."""
    return variable._value is not None


def drawn_as_built(variable: keras.Variable, initializer: Any) -> Any:
    """What a variable would be filled with that Keras makes now, with this initializer."""
    shape, dtype = tuple(variable.shape), variable.dtype
    layout = getattr(variable, "_layout", None)
    # Keras 3.8 draws the whole tensor, and spreads it when it is assigned.
    if layout is None or "layout" not in inspect.signature(keras.Variable).parameters:
        return initializer(shape, dtype=dtype)
    # Keras may compile the initializer for sharded tensors, which draws other last bits.
    twin = keras.Variable(
        initializer, shape=shape, dtype=dtype, name=variable.name, layout=layout
    )
    return twin.value


def scopes() -> list[tuple[str, keras.Layer | None]]:
    """The parts of the path that a weight would have now, each with its layer if known."""
    parts: list[tuple[str, keras.Layer | None]] = []
    for entry in get_global_attribute("name_scope_stack") or ():
        if entry.override_parent is not None:  # its layer is being built again
            names = [name for name in entry.override_parent.split("/") if name]
            if names != [name for name, _ in parts]:
                parts = [(name, None) for name in names]
        layer = entry.caller if isinstance(entry.caller, keras.Layer) else None
        parts.append((entry.name, layer))
    return parts


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """The variables of a layer without the layers inside it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def is_learned(layer: keras.Layer, variable: keras.Variable) -> bool:
    """Whether a variable of the layer's own was made to be trained, frozen now or not."""
    return any(variable is learned for learned in layer._trainable_variables)


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that a layer has directly."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def all_layers(layer: keras.Layer) -> list[keras.Layer]:
    """The layer itself, then all inside it."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


@contextlib.contextmanager
def unfilled_variables() -> Iterator[keras.StatelessScope]:
    """What is made in the block takes no memory; the scope knows what was assigned."""
    pending = get_global_attribute("uninitialized_variables")
    kept = None if pending is None else list(pending)
    try:
        with kept_names(), keras.StatelessScope(initialize_variables=False) as scope:
            yield scope
    finally:
        # Keras would fill those of the block, too, at the end of the next stateless scope.
        set_global_attribute("uninitialized_variables", kept)


@contextlib.contextmanager
def kept_names() -> Iterator[None]:
    """In the end Keras numbers the names of layers and operations as if nothing had been."""
    before = dict(get_global_attribute("object_name_uids") or {})
    try:
        yield
    finally:
        numbers = get_global_attribute("object_name_uids")
        if numbers is not None:
            numbers.clear()
            numbers.update(before)


def lists_layers(layer: keras.Layer) -> bool:
    """Whether its config holds its layers' configs: a functional model or a Sequential."""
    return type(layer) in (Functional, keras.Sequential)


def build_like(twin: keras.Layer, layer: keras.Layer) -> None:
    """Makes the weights of a layer as another of its class and config has them."""
    config = layer.get_build_config()
    if type(layer).build is not keras.Layer.build or not config:
        twin.build_from_config(config)
    elif layer._inbound_nodes:
        given = layer._inbound_nodes[0].arguments
        args, kwargs = keras.tree.map_structure(_unrecorded, (given.args, given.kwargs))
        twin(*args, **kwargs)
    else:
        twin(keras.KerasTensor(config["input_shape"], layer.compute_dtype))


def _unrecorded(value: Any) -> Any:
    is_symbolic = isinstance(value, keras.KerasTensor)
    return keras.KerasTensor(value.shape, value.dtype) if is_symbolic else value


@contextlib.contextmanager
def random_numbers_from(seed: int) -> Iterator[None]:
    """In the block a seed governs Python's, NumPy's and Keras's own random numbers."""
    states = random.getstate(), np.random.get_state()
    generator = get_global_attribute("global_seed_generator")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        with kept_names():
            own = keras.random.SeedGenerator(seed % 2**31)
            set_global_attribute("global_seed_generator", own)
            yield
    finally:
        set_global_attribute("global_seed_generator", generator)
        random.setstate(states[0])
        np.random.set_state(states[1])


def seed_generator_state() -> list[keras.Variable]:
    """That of Keras's own generator, if there is one."""
    generator = get_global_attribute("global_seed_generator")
    return [] if generator is None else [generator.state]


def symbolic_inputs(layer: keras.Layer) -> list[keras.KerasTensor]:
    """What the layer takes in all of its calls of functional models."""
    return [tensor for node in layer._inbound_nodes for tensor in node.input_tensors]


def recorded_model(operation: Any) -> keras.Model | None:
    """A model that was made of recorded calls, or a Sequential's; `None` of others."""
    if isinstance(operation, keras.Sequential):
        operation = operation._functional
    # A class that derives from it may do more than its graph says.
    if not isinstance(operation, Functional) or type(operation).call is not Functional.call:
        return None
    return operation


@contextlib.contextmanager
def symbolic_calls(model: keras.Layer) -> Iterator[None]:
    """In the block layers take `KerasTensor`s, and nothing tells of it afterwards."""
    operations = {
        id(operation): operation
        for layer in all_layers(model)
        for operation in (layer, *(getattr(layer, "operations", None) or ()))
    }
    nodes = [
        (kept, len(kept))
        for operation in operations.values()
        for kept in (operation._inbound_nodes, operation._outbound_nodes)
    ]
    try:
        # What the layers assign, to counters of random numbers too, goes with the scope.
        with kept_losses(model), kept_names(), _symbolic_backend(), keras.StatelessScope():
            yield
    finally:
        for kept, count in nodes:
            del kept[count:]


# How many blocks there are in all threads.
_lock = threading.Lock()
_blocks = 0
# Whether one of `keras.ops` runs in their place, which calls the backend's.
_inside: ContextVar[bool] = ContextVar("keras_fanwise_operation", default=False)


@contextlib.contextmanager
def _symbolic_backend() -> Iterator[None]:
    """In the block the operations that Keras's layers use take `KerasTensor`s, too."""
    global _blocks
    backend: Any = sys.modules["keras.src.backend"]
    if not hasattr(backend, "ops"):  # up to Keras 3.15 its layers call `keras.ops`
        yield
        return
    with _lock:
        if not _blocks:
            backend.ops = _Operations(backend.ops)
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                backend.ops = backend.ops._module


class _Operations:
    """The backend's operations; of a `KerasTensor`, in any thread, those of `keras.ops`."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        of_backend, of_keras = getattr(self._module, name), getattr(keras.ops, name, None)
        if isinstance(of_backend, ModuleType):
            return _Operations(of_backend)
        if of_keras is None or not inspect.isroutine(of_backend):
            return of_backend

        def operation(*args: Any, **kwargs: Any) -> Any:
            given = keras.tree.flatten((args, kwargs))
            symbolic = any(isinstance(each, keras.KerasTensor) for each in given)
            if not symbolic or _inside.get():
                return of_backend(*args, **kwargs)
            token = _inside.set(True)
            try:
                return of_keras(*args, **kwargs)
            finally:
                _inside.reset(token)

        return operation


class SymbolicCall(NamedTuple):
    """A call of an operation with `KerasTensor`s."""

    number: int  # tells it from others of the model, and of the operation
    operation: Any  # a layer, or one of `keras.ops`
    arguments: list[Any]  # flat
    outputs: list[Any]


def symbolic_call(tensor: keras.KerasTensor) -> SymbolicCall | None:
    """The call that gave a `KerasTensor`; `None` for one that was there at first."""
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    node = history.operation._inbound_nodes[history.node_index]
    if node.is_input:
        return None
    arguments = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    return SymbolicCall(id(node), node.operation, arguments, node.outputs)


@contextlib.contextmanager
def kept_losses(model: keras.Layer) -> Iterator[None]:
    """In the end `model.losses` are those of the last call before, which a call forgets."""
    before = [
        (layer, list(layer._losses), set(layer._loss_ids)) for layer in all_layers(model)
    ]
    try:
        yield
    finally:
        for layer, losses, ids in before:
            layer._losses[:] = losses
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)


def has_compiled_loss(model: keras.Model) -> bool:
    return model._compile_loss is not None


def new_compiled_loss(model: keras.Model) -> contextlib.AbstractContextManager[None]:
    """In the block the loss is a new one, whose first call settles what it compares."""
    before = model._compile_loss
    return _with_attributes(model, _compile_loss=_compiled_loss(before, before._user_loss))


@contextlib.contextmanager
def _with_attributes(model: keras.Model, **values: Any) -> Iterator[None]:
    before = {name: getattr(model, name, None) for name in values}
    try:
        # Past Keras and PyTorch, which keep account of what is assigned to a model.
        for name, value in values.items():
            object.__setattr__(model, name, value)
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(model, name, value)


def _compiled_loss(like: Any, losses: Any) -> Any:
    return type(like)(losses, like._user_loss_weights, output_names=like.output_names)


@contextlib.contextmanager
def training_aside(model: keras.Model) -> Iterator[None]:
    """In the block a new optimizer trains the model; the caller brings its values back."""
    optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
    optimizer.build(model.trainable_variables)
    aside = _with_attributes(
        model,
        optimizer=optimizer,
        train_function=None,
        _compile_metrics=None,
        # Eagerly: nothing is compiled, and JAX gives no value away that somebody keeps.
        _run_eagerly=True,
        _jax_state=None,  # on JAX, the arrays of all variables after a step
    )
    with new_compiled_loss(model), kept_names(), aside:
        yield


class Comparison(NamedTuple):
    """What one of the losses of a model is called with."""

    output: str  # the name that Keras gives its loss, or else that of the model
    loss: keras.losses.Loss
    y_true: Any
    y_pred: Any
    sample_weight: Any


# What Keras names the loss of an output by, if the output has no name.
_UNNAMED = "unnamed"


class _Recorder(keras.losses.Loss):
    """In the place of a loss: notes what it is called with, and compares nothing."""

    def __init__(self, identifier: Any, calls: list[Any]) -> None:
        super().__init__(name=_UNNAMED)
        self._identifier = identifier
        self._calls = calls

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        loss = get_loss(self._identifier, y_true, y_pred)
        self._calls.append((loss, y_true, y_pred, sample_weight))
        return keras.ops.zeros(())


def comparisons(
    model: keras.Model, y: Any, outputs: Any, sample_weight: Any = None
) -> list[Comparison]:
    """What the losses that a model is compiled with compare `outputs` with, of `y`."""
    before = model._compile_loss
    calls: list[tuple[keras.losses.Loss, Any, Any, Any]] = []
    losses = keras.tree.map_structure(
        lambda one: None if one is None else _Recorder(one, calls), before._user_loss
    )
    new = _compiled_loss(before, losses)
    new(y, outputs, sample_weight)
    names = [flat.name for flat in new._flat_losses]
    several = [f"{model.name}[{number}]" for number in range(len(names))]
    ours = several if len(names) > 1 else [model.name]
    return [
        Comparison(own if name == _UNNAMED else name, *call)
        for name, own, call in zip(names, ours, calls, strict=True)
    ]


def loss_arguments(loss: keras.losses.Loss) -> dict[str, Any] | None:
    """The arguments of the function of a loss; `None` of one that has its own `call`."""
    if type(loss).call is not keras.losses.MeanSquaredError.call:
        return None
    arguments: dict[str, Any] = loss._fn_kwargs
    return arguments


def new_optimizer_state(
    optimizer: keras.optimizers.Optimizer,
) -> list[tuple[keras.Variable, Callable[[], Any]]]:
    """Each variable of a built optimizer, with what gives its value in one built now."""
    if parts := getattr(optimizer, "optimizers", None):  # a MultiOptimizer
        steps = optimizer.iterations
        own = [(steps, lambda: keras.ops.zeros(steps.shape, steps.dtype))]
        return own + [
            pair for part in parts if part.built for pair in new_optimizer_state(part)
        ]
    # A LossScaleOptimizer of Keras 3.8 leaves the list to the one inside it.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    weights = inner._trainable_variables
    try:
        new = type(optimizer).from_config(optimizer.get_config())
        with unfilled_variables() as scope:
            new.build(weights)
    except Exception:  # as Nadam makes a variable of a value, which takes its memory
        new = type(optimizer).from_config(optimizer.get_config())
        new.build(weights)
        scope = keras.StatelessScope()  # in which nothing was assigned
    pairs = [*zip(_state(optimizer), _state(new), strict=True)]

    def value(variable: keras.Variable) -> Any:
        assigned = scope.get_current_value(variable)
        return variable.value if assigned is None else assigned

    return [(old, functools.partial(value, new)) for old, new in pairs]


def _state(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """All variables of an optimizer but the weights that it trains."""
    # Inside a LossScaleOptimizer Keras loses track of some, such as the product of Nadam.
    inner = vars(getattr(optimizer, "inner_optimizer", optimizer)).items()
    held = [value for name, value in sorted(inner) if name != "_trainable_variables"]
    found = [*optimizer.variables, *keras.tree.flatten(held)]
    return list({id(v): v for v in found if isinstance(v, keras.Variable)}.values())


def initializer_modules() -> list[ModuleType]:
    """The modules in which code may find `keras.initializers.get`."""
    # Layers look in the first; before Keras 3.9 an import statement makes another.
    names = (
        "keras.src.initializers",
        "keras.initializers",
        "keras.api.initializers",
        "keras._tf_keras.keras.initializers",
    )
    modules = [*(sys.modules.get(name) for name in names), keras.initializers]
    return list(dict.fromkeys(module for module in modules if module is not None))


def initializer_table() -> dict[str, Any]:
    """Keras's own initializers by name; from Keras 3.16 on `get` finds no other names."""
    table = getattr(sys.modules.get("keras.src.initializers"), "ALL_OBJECTS_DICT", None)
    return table if isinstance(table, dict) else {}


class _Probe(keras.initializers.Initializer):
    """One of ours to the seam, which asks each for the seed of a weight."""

    def __init__(self) -> None:
        self.was_met = False

    def weight_seed(self) -> None:
        self.was_met = True

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> Any:
        return keras.ops.zeros(shape, dtype=dtype)

    draw = __call__


def seam_holds() -> bool:
    """Whether the seam meets an initializer of ours on its way from a layer of Keras."""
    probe = _Probe()
    try:
        with unfilled_variables():
            keras.layers.Dense(1, kernel_initializer=probe, name="probe").build((None, 1))
    except Exception:  # whatever a later Keras has changed is reported as such
        return False
    return probe.was_met


def warn_if_the_seam_is_lost() -> None:
    """Says so if layers do not tell our initializers any more which weight they fill."""
    if not seam_holds():
        warnings.warn(
            f"Keras {keras.__version__} does not make the weights of its layers by "
            "keras.Layer.add_weight as keras_fanwise has wrapped it: its initializers do "
            "not learn which weight they fill, count the fans by the shape alone, as "
            "Keras's do, and draw the same values for weights of one shape and seed. What "
            "still works: fans by hand, as in FanwiseHeNormal(fans=(9, 9)), layer_fans and "
            f"fans_table. The versions of Keras known to be good: {TRIED}.",
            stacklevel=3,
        )
