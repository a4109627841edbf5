"""A plan for every weight of a model: checked as a whole, then carried out."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from rich.console import Console
from rich.progress import Progress

from keras_fanwise.arguments import fail, in_weight
from keras_fanwise.backends.sharding import layout_of, local_parts
from keras_fanwise.diagnostics.moments import moments
from keras_fanwise.initializers.base import FanwiseInitializer
from keras_fanwise.initializers.checks import checked_shape_and_dtype
from keras_fanwise.initializers.counterparts import own_seed_of, portable
from keras_fanwise.initializers.site import Site
from keras_fanwise.models.writing import all_or_none
from keras_fanwise.reports.start_report import StartReport, WeightStart
from keras_fanwise.sampling.streams import stream_key
from keras_fanwise.seam.keys import model_keys
from keras_fanwise.seam.owners import OwnedWeight
from keras_fanwise.seam.record import initializer_name

# From about so many elements on the user waits: some tenths of a second.
_LONG = 50_000_000
# What initializers of others take as a seed.
_SEEDS = 2**31


class Choice(NamedTuple):
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

    What can be known to go wrong goes wrong here, before a weight is written.

    Args:
        weights: all weights of a model.
        choices: what becomes of each.
        seed: of all that is random and has no seed that counts.

    Raises:
        TypeError: an initializer cannot fill its weight.
        ValueError: likewise.
    """

    def __init__(
        self, weights: Sequence[OwnedWeight], choices: Sequence[Choice], seed: int
    ) -> None:
        self._seed = seed
        keys = model_keys(weights)
        self._steps = [
            _planned(owned, choice, seed, key)
            for owned, choice, key in zip(weights, choices, keys, strict=True)
        ]

    def report(self) -> StartReport:
        """The plan, as it is, once other people's initializers have been tried.

        Their values are not kept: there is room for one weight at a time.
        """
        for step in self._steps:
            if step.fill is not None and step.row.std_asked is None:
                step.fill()
        return StartReport([step.row for step in self._steps], self._seed)

    def carry_out(self, finish: Sequence[Callable[[], Any]] = ()) -> StartReport:
        """Writes all weights, and measures them; or, after any exception, none.

        Args:
            finish: what is to follow when all are written, and cannot fail. All of it is
                done, also where an interrupt comes in between.
        """
        elements = [math.prod(step.row.shape) for step in self._steps]
        rows = []
        console = Console(stderr=True)
        with (
            all_or_none() as write,
            Progress(
                console=console, transient=True, disable=sum(elements) < _LONG
            ) as progress,
        ):
            task = progress.add_task("weights", total=sum(elements))
            for step, advance in zip(self._steps, elements, strict=True):
                if step.fill is not None:
                    write(step.variable, step.fill())
                std = moments(local_parts(step.variable.value)).std
                rows.append(step.row._replace(std=std))
                progress.advance(task, advance)
        try:
            for done in finish:
                done()
        except BaseException:
            for done in finish:
                done()
            raise
        return StartReport(rows, self._seed)


def _planned(owned: OwnedWeight, choice: Choice, seed: int, key: str) -> _Step:
    variable = owned.variable
    site = Site.of(owned.layer, variable.name, variable.shape, key)
    site = site._replace(path=variable.path)
    shape = site.shape
    row = WeightStart(variable.path, type(owned.layer).__name__, shape, site.fans)
    if choice.initializer is None:
        return _Step(variable, row._replace(reason=choice.reason), None)
    initializer = choice.initializer
    row = row._replace(status="set", initializer=_label(initializer))
    try:
        ours = initializer
        if not isinstance(initializer, FanwiseInitializer):
            ours = portable(initializer)
        if ours is None:
            return _Step(variable, row, _called(choice, site, variable, seed))
        expected = ours.expected(shape, site)
        if math.isfinite(expected.std):
            row = row._replace(std_asked=expected.std)
        checked_shape_and_dtype(shape, variable.dtype)
        draw = functools.partial(
            ours.draw,
            shape,
            variable.dtype,
            layout_of(variable.value),
            site=site,
            seed=_seed(ours, choice, seed),
            distribution=expected,
        )
        return _Step(variable, row, draw)
    except (TypeError, ValueError) as error:
        raise in_weight(error, variable.path, shape) from error


def _seed(initializer: FanwiseInitializer, choice: Choice, seed: int) -> int | None:
    """That of the draw; `None` where the state of the initializer's generator advances."""
    own = own_seed_of(initializer) if choice.own_seed else None
    if own is None:
        return seed
    return own if isinstance(own, int) else None


def _label(initializer: Any) -> str:
    if isinstance(initializer, FanwiseInitializer):
        return repr(initializer)
    return initializer_name(initializer)


def _called(
    choice: Choice, site: Site, variable: keras.Variable, seed: int
) -> Callable[[], Any]:
    """Calls an initializer that is neither ours nor random and Keras's."""
    initializer = _reseeded(choice, stream_key(seed, site.key) % _SEEDS)

    def values() -> Any:
        try:
            return _tensor(initializer(site.shape, dtype=variable.dtype), site, variable)
        except (TypeError, ValueError) as error:
            raise in_weight(error, site.path, site.shape) from error

    return values


def _reseeded(choice: Choice, seed: int) -> Any:
    """The initializer, with a seed where it takes one and has none that counts."""
    initializer = choice.initializer
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if "seed" not in config or (choice.own_seed and config["seed"] is not None):
        return initializer
    try:
        return type(initializer).from_config({**config, "seed": seed})
    except Exception as error:
        allowed = f"one that its own config makes again ({error})"
        raise fail(ValueError, "initializer", allowed, initializer) from error


def _tensor(values: Any, site: Site, variable: keras.Variable) -> Any:
    """What an initializer gave, if it can be assigned to the weight."""
    try:
        if not keras.ops.is_tensor(values):
            values = np.asarray(values)
            if values.dtype.kind not in "biuf" and values.dtype.name != "bfloat16":
                raise TypeError(values.dtype)
        tensor = keras.ops.convert_to_tensor(values)
        if "complex" in keras.backend.standardize_dtype(tensor.dtype):
            raise TypeError("complex numbers")
    except (TypeError, ValueError) as error:
        allowed = f"one that gives real numbers ({error})"
        raise fail(TypeError, "initializer", allowed, values) from error
    if tuple(tensor.shape) != site.shape:
        allowed = f"one that gives the shape {site.shape}, not {tuple(tensor.shape)}"
        raise fail(ValueError, "initializer", allowed, values)
    return keras.ops.cast(tensor, variable.dtype)
