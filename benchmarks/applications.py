"""What `audit` and `signal` say of every model of keras.applications, untrained.

    python benchmarks/applications.py --write docs/applications.md

Each model is built with `weights=None` for the smallest images that it takes; one that does
not fit in memory is said to be so. The smallest of a family stands for those that differ
from it in width and depth alone; `--all` takes every size. Where `signal` has a finding, it
is asked again after `initialize(model, "he", seed=0)`.
"""

import argparse
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import keras

import keras_fanwise
from keras_fanwise.reports.audit_report import AuditFinding

from harness import console, fresh_process, progress

# The smallest of each family.
FAMILIES = (
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "EfficientNetV2S",
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "NASNetMobile",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "Xception",
)
# The side of the smallest images where 32 is too small.
SMALLEST = {
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "NASNetLarge": 331,
    "NASNetMobile": 224,
    "Xception": 71,
}
HEADER = """# The models of keras.applications

What `audit` and `signal` say of each, from its own initializers (`weights=None`), on
{backend} with Keras {version}: `python benchmarks/applications.py --write
docs/applications.md` prints this table. Of a family whose sizes differ in width and depth
alone the smallest stands for all (`--all` takes every size). With notes a model may start
well: its initializers count other fans than its layers have, by a factor that does not hurt
or that a normalization undoes.

| model | million weights | `audit`: errors | notes, by cause | `signal` |
|---|---|---|---|---|
"""


class Verdicts(NamedTuple):
    """Of a model.

    Attributes:
        weights: how many it has.
        errors: of its audit, by cause.
        notes: likewise.
        signals: the findings of its signal.
        after: those after `initialize(model, "he")`, if there were any.
    """

    weights: int
    errors: str
    notes: str
    signals: str
    after: str | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="tensorflow")
    parser.add_argument("--only", nargs="*", default=FAMILIES, help="names of models")
    parser.add_argument("--all", action="store_true", help="all sizes of each family")
    parser.add_argument("--write", type=Path, help="a Markdown file for the table")
    arguments = parser.parse_args()
    models = vars(keras.applications).items()
    every = sorted(name for name, model in models if callable(model))
    lines = []
    process = fresh_process(arguments.backend)
    with progress() as bar:
        names = every if arguments.all else arguments.only
        for name in bar.track(names, description="models"):
            try:
                lines.append(row(name, process.submit(verdicts, name).result()))
            except (BrokenProcessPool, MemoryError):
                lines.append(f"| {name} | | does not fit in memory | | |")
                process = fresh_process(arguments.backend)
    process.shutdown()
    header = HEADER.format(backend=arguments.backend, version=keras.__version__)
    page = header + "\n".join(lines) + "\n"
    console.print(page, markup=False, highlight=False, soft_wrap=True)
    if arguments.write:
        arguments.write.write_text(page)


def verdicts(name: str) -> Verdicts:
    side = SMALLEST.get(name, 32)
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3))
    report = keras_fanwise.audit(model)
    signals, after = signal_findings(model), None
    if signals:
        keras_fanwise.initialize(model, "he", seed=0)
        after = signal_findings(model) or "no finding"
    errors, notes = causes(report.errors), causes(report.notes)
    keras.backend.clear_session()
    return Verdicts(model.count_params(), errors, notes, signals, after)


def causes(findings: list[AuditFinding]) -> str:
    """Such as "5: HeNormal counts no strides"."""
    counts = Counter((found.condition.label, found.cause) for found in findings)
    return "; ".join(
        f"{count} {label}: {cause}" for (label, cause), count in counts.items()
    )


def signal_findings(model: keras.Model) -> str:
    return "; ".join(
        f"{found.verdict.label} {found.direction} at {found.path}: {found.numbers}"
        for found in keras_fanwise.signal(model).findings
    )


def row(name: str, found: Verdicts) -> str:
    signals = found.signals or "no finding"
    if found.after is not None:
        signals += f'; from `initialize(model, "he")`: {found.after}'
    millions = f"{found.weights / 1e6:.1f}"
    cells = (name, millions, found.errors or "none", found.notes or "none", signals)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
