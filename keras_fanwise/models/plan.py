"""A plan for every weight of a model: checked as a whole, then carried out."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from rich.console import Console
from rich.progress import Progress

from keras_fanwise.arguments import fail, in_weight
from keras_fanwise.backends.sharding import layout_of, local_parts
from keras_fanwise.diagnostics.moments import moments
from keras_fanwise.initializers.base import FanwiseInitializer, checked_shape_and_dtype
from keras_fanwise.initializers.counterparts import given_seed, portable
from keras_fanwise.initializers.site import Site
from keras_fanwise.reports.start_report import StartReport, WeightStart
from keras_fanwise.sampling.streams import stream_key
from keras_fanwise.seam.keys import model_keys
from keras_fanwise.seam.owners import OwnedWeight
from keras_fanwise.seam.record import initializer_name

# From about so many elements on the user waits: some tenths of a second.
_LONG = 50_000_000
# What initializers of others take as a seed.
_SEEDS = 2**31


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

    Everything that can go wrong goes wrong here, before a weight is written: what is
    not known to succeed, other people's initializers, is called now.

    Args:
        weights: all weights of a model.
        choices: what becomes of each.
        seed: of all that is random and has no seed that counts.

    Raises:
        TypeError: an initializer cannot fill its weight.
        ValueError: likewise.
    """

    def __init__(
        self, weights: Sequence[OwnedWeight], choices: Sequence[Chosen], seed: int
    ) -> None:
        self._seed = seed
        keys = model_keys(weights)
        self._steps = [
            _planned(owned, choice, seed, key)
            for owned, choice, key in zip(weights, choices, keys, strict=True)
        ]

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


def _planned(owned: OwnedWeight, chosen: Chosen, seed: int, key: str) -> _Step:
    variable = owned.variable
    site = Site.of(owned.layer, variable.name, variable.shape, key)
    site = site._replace(path=variable.path)
    shape = site.shape
    row = WeightStart(variable.path, type(owned.layer).__name__, shape, site.fans)
    if chosen.initializer is None:
        return _Step(variable, row._replace(reason=chosen.reason), None)
    initializer = chosen.initializer
    row = row._replace(status="set", initializer=_label(initializer))
    try:
        ours = initializer
        if not isinstance(initializer, FanwiseInitializer):
            ours = portable(initializer)
        if ours is None:
            return _Step(variable, row, _called(chosen, variable, seed, key))
        expected = ours.expected(shape, site)
        row = row._replace(std_asked=expected.std)
        checked_shape_and_dtype(shape, variable.dtype)
        draw = functools.partial(
            ours.draw,
            shape,
            variable.dtype,
            layout_of(variable.value),
            site=site,
            seed=_seed(ours, chosen, seed),
            distribution=expected,
        )
        return _Step(variable, row, draw)
    except (TypeError, ValueError) as error:
        raise in_weight(error, variable.path, shape) from error


def _seed(initializer: FanwiseInitializer, chosen: Chosen, seed: int) -> int | None:
    """That of the draw; `None` where the state of the initializer's generator advances."""
    own = given_seed(initializer) if chosen.own_seed else None
    if own is None:
        return seed
    return own if isinstance(own, int) else None


def _label(initializer: Any) -> str:
    if isinstance(initializer, FanwiseInitializer):
        return repr(initializer)
    return initializer_name(initializer)


def _called(
    chosen: Chosen, variable: keras.Variable, seed: int, key: str
) -> Callable[[], Any]:
    """Calls an initializer that is neither ours nor random and Keras's."""
    initializer, shape = chosen.initializer, tuple(variable.shape)
    if isinstance(initializer, keras.initializers.Initializer):
        config = initializer.get_config()
        own = chosen.own_seed and config.get("seed") is not None
        if "seed" in config and not own:
            config["seed"] = stream_key(seed, key) % _SEEDS
            initializer = type(initializer).from_config(config)
    values = initializer(shape, dtype=variable.dtype)
    if tuple(values.shape) != shape:
        raise fail(
            ValueError, "initializer", f"one that gives the shape {shape}", initializer
        )
    return lambda: values
