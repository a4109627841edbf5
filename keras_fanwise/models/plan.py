"""A plan for every weight of a model: checked as a whole, then carried out."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
from rich.console import Console
from rich.progress import Progress

from keras_fanwise.arguments import fail, in_weight
from keras_fanwise.backends.sharding import layout_of, local_parts
from keras_fanwise.diagnostics.moments import moments
from keras_fanwise.fans.lookup import layer_fans
from keras_fanwise.initializers.base import RandomInitializer, checked_shape_and_dtype
from keras_fanwise.initializers.counterparts import portable
from keras_fanwise.naming import weight_key
from keras_fanwise.reports.start_report import StartReport, WeightStart
from keras_fanwise.sampling.streams import stream_key
from keras_fanwise.seam.given import initializer_name
from keras_fanwise.seam.owners import OwnedWeight

# From about so many elements on the user waits: some tenths of a second.
_LONG = 50_000_000
# What initializers of others take as a seed.
_SEEDS = 2**31
# Keras numbers weights that nobody named.
_NUMBER = re.compile(r"(?<=^variable)_\d+$")


class Chosen(NamedTuple):
    """What becomes of a weight.

    Attributes:
        initializer: that fills it, `None` to keep it.
        reason: why it is kept.
        own_seed: whether the initializer's own seed, if it has one, counts.
    """

    initializer: Any = None
    reason: str = ""
    own_seed: bool = True


class _Step(NamedTuple):
    variable: keras.Variable
    row: WeightStart
    fill: Callable[[], Any] | None


class Plan:
    """What will be done to each weight of a model.

    Making a plan raises every error that carrying it out could raise, so that none stops
    it half way. Initializers of other people may fail in ways that nobody can check
    beforehand: they are called when the plan is made, and their values kept.

    Args:
        weights: all weights of a model, with what becomes of each.
        seed: of all that is random and has no seed that counts.

    Raises:
        TypeError: an initializer cannot fill its weight.
        ValueError: likewise.
    """

    def __init__(self, weights: Iterable[tuple[OwnedWeight, Chosen]], seed: int) -> None:
        self._seed = seed
        ordinals: Counter[str] = Counter()
        self._steps = []
        for owned, chosen in weights:
            key = _key(owned)
            # Layers and weights that nobody named have equal keys.
            name = f"{key}\0{ordinals[key]}"
            ordinals[key] += 1
            self._steps.append(_planned(owned, chosen, seed, name))

    def report(self) -> StartReport:
        """The plan, as it is."""
        return StartReport([step.row for step in self._steps], self._seed)

    def carry_out(self) -> StartReport:
        """Writes the weights, and measures them."""
        elements = [math.prod(step.row.shape) for step in self._steps]
        rows = []
        with Progress(
            console=Console(stderr=True), transient=True, disable=sum(elements) < _LONG
        ) as progress:
            task = progress.add_task("weights", total=sum(elements))
            for step, advance in zip(self._steps, elements, strict=True):
                if step.fill is not None:
                    step.variable.assign(step.fill())
                std = moments(local_parts(step.variable.value)).std
                rows.append(step.row._replace(std=std))
                progress.advance(task, advance)
        return StartReport(rows, self._seed)


def _key(owned: OwnedWeight) -> str:
    """The weight key, from the names of the layers: the paths that Keras records depend on
    whether a model was made by code or loaded."""
    layers = [layer.name for layer in owned.holders[1:]]
    return weight_key("/".join([*layers, _NUMBER.sub("", owned.variable.name)]))


def _planned(owned: OwnedWeight, chosen: Chosen, seed: int, name: str) -> _Step:
    variable = owned.variable
    shape = tuple(variable.shape)
    fans = layer_fans(owned.layer, variable.name, shape)
    row = WeightStart(variable.path, type(owned.layer).__name__, shape, fans)
    if chosen.initializer is None:
        return _Step(variable, row._replace(reason=chosen.reason), None)
    initializer = chosen.initializer
    row = row._replace(status="set", initializer=_label(initializer))
    try:
        drawn = initializer
        if not isinstance(initializer, RandomInitializer):
            drawn = portable(initializer)
        if drawn is None:
            return _Step(variable, row, _called(chosen, variable, seed, name))
        bound = drawn._bound_to(owned.layer, variable.name, shape)
        bound = bound._streamed(seed, name, chosen.own_seed)
        row = row._replace(std_asked=bound._parameters(shape).std)
        checked_shape_and_dtype(shape, variable.dtype)
        dtype, layout = variable.dtype, layout_of(variable.value)
        return _Step(variable, row, lambda: bound(shape, dtype=dtype, layout=layout))
    except (TypeError, ValueError) as error:
        raise in_weight(error, variable.path, shape) from error


def _label(initializer: Any) -> str:
    if isinstance(initializer, RandomInitializer):
        return repr(initializer)
    return initializer_name(initializer)


def _called(
    chosen: Chosen, variable: keras.Variable, seed: int, name: str
) -> Callable[[], Any]:
    """Calls an initializer that is neither ours nor random and Keras's."""
    initializer, shape = chosen.initializer, tuple(variable.shape)
    if isinstance(initializer, keras.initializers.Initializer):
        config = initializer.get_config()
        own = chosen.own_seed and config.get("seed") is not None
        if "seed" in config and not own:
            config["seed"] = stream_key(seed, name) % _SEEDS
            initializer = type(initializer).from_config(config)
    values = initializer(shape, dtype=variable.dtype)
    if tuple(values.shape) != shape:
        raise fail(
            ValueError, "initializer", f"one that gives the shape {shape}", initializer
        )
    return lambda: values
