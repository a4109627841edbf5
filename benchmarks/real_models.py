"""What each of many real models, untrained, needs for a good start.

    python benchmarks/real_models.py --write docs/real_models.md
    python benchmarks/real_models.py --agree   # do all reports say the same?

Of keras.applications the smallest of each family, with `weights=None`, on the smallest
images that it takes (`--every-size`: all of them), and backbones of keras-hub with few and
narrow layers, if it is installed. They are those of tests/real_models.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from harness import console, fresh_process, progress

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
HEADER = """# Real models

What models that others wrote need for a good start, from their own initializers and
untrained, on {backend} with Keras {version}{hub}: `python benchmarks/real_models.py --write
docs/real_models.md` prints this page. Of keras.applications the smallest of each family
stands for all its sizes, on the smallest images that it takes; the backbones of keras-hub
are made small: four layers and a width of 384 where they are transformers.

- Kernels: all that `calibrate` lists, also matrices that may not be kernels.
- Additions: sums that a residual branch ends in, as `residual_ends` counts them.
- Errors, warnings and notes are found by `audit`. With notes a model may start well: its
  initializers count other fans than its layers have, by a factor that does no harm or that
  a normalization undoes.
- Signal: the number of errors and warnings of `signal`.

"""
IN_FULL = """
## What was found

The models with an error or a warning: what `calibrate` leaves as it is, and why (kept); the
recipes that apply to the model and after which `signal` has neither; and the first change
that leaves none (mended by).
"""
# As many as `signal` draws by itself.
_SAMPLES = 32
# For models that Keras refuses on the one that is asked for.
_OTHER_BACKEND = "tensorflow"
COLUMNS = (
    "model",
    "million weights",
    "kernels",
    "additions",
    "errors",
    "warnings",
    "notes",
    "signal",
)


class Needs(NamedTuple):
    """Of a model; findings of `audit` and kept weights as the number for each cause."""

    weights: int
    kernels: int
    additions: int
    errors: Counter[str]
    warnings: Counter[str]
    notes: Counter[str]
    signal: list[str]
    kept: Counter[str]
    recipes: list[str]
    mended_by: str


# Nothing above imports Keras: a process that is to measure does so once its backend is set.


def models() -> Any:
    return importlib.import_module("support.real_models")


def main() -> None:
    real_models = models()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--only", nargs="*", help="names, such as VGG16 and BertBackbone")
    parser.add_argument("--every-size", action="store_true", help="of keras.applications")
    parser.add_argument("--write", type=Path, help="a Markdown file for the table")
    parser.add_argument(
        "--agree", action="store_true", help="only check that no two reports disagree"
    )
    arguments = parser.parse_args()
    names = arguments.only or real_models.names(every_size=arguments.every_size, large=True)
    results: dict[str, Any] = {}
    with progress() as bar:
        for name in bar.track(names, description="models"):
            known = real_models.is_on(name, arguments.backend)
            backend = arguments.backend if known else _OTHER_BACKEND
            with contextlib.suppress(BrokenProcessPool, MemoryError):
                with fresh_process(backend) as process:
                    ask = disagreements if arguments.agree else needs
                    found = process.submit(ask, name).result()
                results[name if known else f"{name} (on {backend})"] = found
    unfit = [name for name in names if not any(key.startswith(name) for key in results)]
    if arguments.agree:
        print_disagreements(results, unfit)
        return
    lines = [row(name, found) for name, found in results.items()]
    lines += [f"| {name} | does not fit in memory{' |' * 6}" for name in unfit]
    in_full = [part for name, found in results.items() for part in details(name, found)]
    hub = ""
    if real_models.HAS_KERAS_HUB:
        hub = f" and keras-hub {importlib.metadata.version('keras-hub')}"
    header = HEADER.format(
        backend=arguments.backend, version=importlib.metadata.version("keras"), hub=hub
    )
    table = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|", *lines]
    if in_full:
        table += [IN_FULL, *in_full]
    page = header + "\n".join(table).rstrip("\n") + "\n"
    console.print(page, markup=False, highlight=False, soft_wrap=True)
    if arguments.write:
        arguments.write.write_text(page)


def needs(name: str) -> Needs:
    """Runs in a fresh process."""
    import keras

    import keras_fanwise

    real_models = models()
    keras.utils.set_random_seed(0)
    model = real_models.built(name)
    x = real_models.batch_of(model, samples=_SAMPLES)
    report = keras_fanwise.audit(model)
    errors, warnings = causes(report.errors), causes(report.warnings)
    signal = signal_findings(model, x)
    calibration = keras_fanwise.calibrate(model, x, dry_run=True)
    kept = Counter(row.reason for row in calibration.rows if row.reason)
    additions = len(real_models.residual_additions(model))
    mended_by = first_mend(name, x) if errors or warnings or signal else ""
    recipes = good_recipes(model, x)
    weights = model.count_params()
    keras.backend.clear_session()
    return Needs(
        weights,
        len(calibration.rows),
        additions,
        errors,
        warnings,
        causes(report.notes),
        signal,
        kept,
        recipes,
        mended_by,
    )


class Agreement(NamedTuple):
    """Of a model: after how many starts it was asked, and what was said against it."""

    starts: int
    kernels: int
    contradictions: list[str]


def disagreements(name: str) -> Agreement:
    """What two reports say differently after a recipe; runs in a fresh process."""
    import keras

    import keras_fanwise

    keras.utils.set_random_seed(0)
    model = models().built(name)
    x = models().batch_of(model, samples=_SAMPLES)
    roles = [(row.path, row.role) for row in keras_fanwise.fans_table(model).rows]
    kernels = [path for path, role in roles if role == "kernel"]
    said = []
    listed = [row.path for row in keras_fanwise.calibrate(model, x, dry_run=True).rows]
    wanted = [path for path, role in roles if role in ("kernel", "matrix")]
    if Counter(listed) != Counter(wanted):
        said.append("calibrate lists other kernels than fans_table")
    starts = 0
    for recipe in keras_fanwise.recipes():
        try:
            start = keras_fanwise.initialize(model, recipe, seed=0)
        except ValueError:  # such as "critical", which is for plain networks
            continue
        starts += 1
        audit = keras_fanwise.audit(model)
        signal = keras_fanwise.signal(model, x)
        measured = {row.path for row in audit.rows}  # of whole numbers none is
        known = [(path, role) for path, role in roles if path in measured]
        rows = [row for row in start.rows if row.path in measured]
        for report in (rows, audit.rows):
            if [(row.path, row.role) for row in report] != known:
                said.append(f"{recipe}: {type(report[0]).__name__} has other roles")
        for one, other in zip(rows, audit.rows, strict=True):
            if one.role == "kernel" and one.reason.startswith("no rule"):
                said.append(f"{recipe}: {one.path} is kept: {one.reason}")
            if not math.isclose(one.std or 0.0, other.std, rel_tol=1e-3, abs_tol=1e-9):
                said.append(f"{recipe}: {one.path} has std {one.std}, {other.std}")
        if not (signal.errors or signal.warnings):
            for found in (*audit.errors, *audit.warnings):
                said.append(f"{recipe}: {found.severity} of audit, healthy: {found.path}")
    return Agreement(starts, len(kernels), said)


def print_disagreements(results: dict[str, Agreement], unfit: list[str]) -> None:
    for name, found in results.items():
        for line in found.contradictions:
            console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)
    for name in unfit:
        console.print(f"{name}: does not fit in memory")
    starts = sum(found.starts for found in results.values())
    kernels = sum(found.kernels for found in results.values())
    count = sum(len(found.contradictions) for found in results.values())
    console.print(
        f"{len(results)} models with {kernels} kernels, {starts} starts by recipes: "
        f"{count} contradictions"
    )


def causes(findings: Sequence[Any]) -> Counter[str]:
    """How often there is, for instance, "Glorot: HeNormal counts no strides"."""
    return Counter(f"{found.condition.label}: {found.cause}" for found in findings)


def signal_findings(model: Any, x: Any) -> list[str]:
    import keras_fanwise

    report = keras_fanwise.signal(model, x)
    return [
        f"{found.verdict.label} {found.direction} at {found.path}: {found.numbers}"
        for found in (*report.errors, *report.warnings)
    ]


def is_good(model: Any, x: Any) -> bool:
    import keras_fanwise

    report = keras_fanwise.audit(model)
    return not (report.errors or report.warnings or signal_findings(model, x))


def good_recipes(model: Any, x: Any) -> list[str]:
    import keras_fanwise

    good = []
    for recipe in keras_fanwise.recipes():
        try:
            keras_fanwise.initialize(model, recipe, seed=0)
        except ValueError:  # such as "critical", which is for plain networks
            continue
        if not signal_findings(model, x):
            good.append(recipe)
    return good


def first_mend(name: str, x: Any) -> str:
    """What was tried first of all that leaves nothing to mend."""
    import keras

    import keras_fanwise

    start = functools.partial(models().built, name)

    def inside_retrofit() -> Any:
        with keras_fanwise.retrofit():
            return start()

    def remedied() -> Any:
        model = start()
        remedies = keras_fanwise.audit(model).remedies()
        if remedies:
            keras_fanwise.initialize(model, remedies, seed=0)
        return model

    def calibrated() -> Any:
        model = start()
        keras_fanwise.calibrate(model, x)
        return model

    def started(recipe: str, residual: str | None = None) -> Any:
        model = start()
        with contextlib.suppress(ValueError):  # there is no residual branch
            keras_fanwise.initialize(model, recipe, seed=0, residual=residual)
        return model

    ways: dict[str, Callable[[], Any]] = {
        "`retrofit()`": inside_retrofit,
        "`initialize(model, audit(model).remedies())`": remedied,
        "`calibrate(model, x)`": calibrated,
        '`initialize(model, "he")`': lambda: started("he"),
        '`initialize(model, "glorot")`': lambda: started("glorot"),
        '`initialize(model, "he", residual="depth")`': lambda: started("he", "depth"),
        '`initialize(model, "he", residual="zero")`': lambda: started("he", "zero"),
    }
    for text, way in ways.items():
        keras.utils.set_random_seed(0)
        if is_good(way(), x):
            return text
    return "none of " + ", ".join(ways)


def row(name: str, found: Needs) -> str:
    audit = (counts.total() for counts in (found.errors, found.warnings, found.notes))
    sizes = f"{found.weights / 1e6:.1f}", found.kernels, found.additions
    cells = [name, *sizes, *audit, len(found.signal)]
    return f"| {' | '.join(map(str, cells))} |"


def details(name: str, found: Needs) -> Iterator[str]:
    """The lines about a model with an error or a warning; none for others."""
    if not found.mended_by:
        return
    yield f"### {name}\n"
    for what, counts in {
        "errors": found.errors,
        "warnings": found.warnings,
        "notes": found.notes,
        "kept": found.kept,
    }.items():
        parts = "; ".join(f"{count} × {cause}" for cause, count in counts.items())
        yield f"- {what}: {parts or 'none'}"
    yield f"- signal: {'; '.join(found.signal) or 'none'}"
    yield f"- recipes: {', '.join(found.recipes) or 'none'}"
    yield f"- mended by: {found.mended_by}\n"


if __name__ == "__main__":
    main()
