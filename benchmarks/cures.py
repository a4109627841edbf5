"""How often `diagnose` finds what is wrong with a training, and `apply` mends it.

    KERAS_BACKEND=jax python benchmarks/cures.py

Networks of `foreign.py` that no limit was set by, each with a start that fits it (four
seeds: an error or a warning is a false alarm), with faults of the data, the loss and the
head, and with starts that are wrong. A fault is found if an error or a warning is of its
kind. A start is cured if after `apply` no error is left, and the training loss after 10
epochs of Adam at 0.001 is within 10% of the worst of the four that fit. The exit code is 1
if more than one in 40 has a false alarm, fewer than 57 in 60 faults are found, or fewer
than 90% of the starts are cured. It takes about eight minutes on one core.
"""

import argparse
import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

import keras_fanwise
from keras_fanwise.reports.report import NOTE

from foreign import BATCH, RATES, build, kernels_drawn, normal, trainer
from harness import console, print_machine, progress, results_table

SEEDS, EPOCHS = 4, 10
_NEAR = 1.1
_FALSE_ALARMS, _FOUND, _CURED = 1 / 40, 57 / 60, 0.9

# Wrong starts, and the kinds of findings that are right.
STARTS: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "zeros": (keras.initializers.Zeros, {"symmetry", "dead"}),
    "ones": (keras.initializers.Ones, {"symmetry"}),
    "N(0, 0.003)": (normal(0.003), {"vanishing", "scale"}),
    "N(0, 3)": (normal(3.0), {"exploding", "saturation", "scale", "loss at the start"}),
}
# With the start that fits, and the wrong ones that make a fault there: all of them in
# chains, and not all where there are branches, gates or normalizations.
_CHAIN = tuple(STARTS)
# Without a normalization branches add up: the last kernel of each is divided, as in GPT-2.
_BY_DEPTH = "he_normal, by depth"
NETWORKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "relu 6": ("he_normal", _CHAIN),
    "relu 10, cancer": ("he_normal", _CHAIN),
    "relu 8, diabetes": ("he_normal", _CHAIN),
    "tanh 8, wine": ("glorot_uniform", _CHAIN),
    "elu 12": ("he_normal", _CHAIN),
    "silu 10, cancer": ("he_normal", _CHAIN),
    "leaky 18": ("he_normal", _CHAIN),
    "autoencoder, deep": ("glorot_uniform", ("zeros", "ones", "N(0, 3)")),
    "own layers 6": ("he_normal", _CHAIN),
    "conv 8": ("he_normal", _CHAIN),
    "depthwise 5": ("fanwise_he_normal", _CHAIN),
    "residual 24": (_BY_DEPTH, ("zeros", "ones", "N(0, 3)")),
    "residual 16, layer norm": ("glorot_uniform", ("ones", "N(0, 3)")),
    "gated 6": ("he_normal", ("zeros", "ones", "N(0, 0.003)")),
    "experts": ("glorot_uniform", ("ones", "N(0, 3)")),
    "GRU": ("glorot_uniform", ("zeros", "ones")),
    "transformer 2, no norm": ("glorot_uniform", ("ones", "N(0, 3)")),
    "transformer 4, norm before": ("glorot_uniform", ("ones", "N(0, 3)")),
}


def headed(model: keras.Model, layer: keras.Layer) -> keras.Model:
    changed = keras.Model(model.inputs, layer(model.outputs[0]))
    changed.compile("adam", model.loss)
    return changed


def broken(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flat[7] = np.nan
    return x


def faults(model: keras.Model, x: Any, y: Any) -> Iterator[tuple[str, str, Any]]:
    """Of the data, the loss and the head: the kind, what it is, and the training."""
    yield "inputs", "not a number", (model, broken(x), y)
    yield "inputs", "300 times", (model, 300 * x, y)
    if y.dtype.kind == "i":
        yield "targets", "classes from 1", (model, x, y + 1)
        yield "head", "softmax, from logits", (headed(model, keras.layers.Softmax()), x, y)
    else:
        yield "loss at the start", "off and wide", (model, x, 5000 + 1000 * y)
        if (y < 0).any():
            yield "head", "ReLU", (headed(model, keras.layers.ReLU()), x, y)


def kinds_of(report: Any) -> set[str]:
    return {one.fault.label for one in report.findings if one.severity != NOTE}


def outcomes(name: str) -> Iterator[tuple[str, str, bool, str]]:
    """The kind, what was tried, whether it came out right, and what there is to say."""
    fits, wrong = NETWORKS[name]
    keras.utils.set_random_seed(0)
    model, x, y = build(name)
    train = trainer(model, x, y, EPOCHS * (len(y) // BATCH))
    losses = []
    for seed in range(SEEDS):
        if fits == _BY_DEPTH:
            keras_fanwise.initialize(model, "he", seed, residual="depth")
        else:
            kernels_drawn(model, functools.partial(keras.initializers.get, fits), seed)
        losses.append(train(RATES[0]))
        found = kinds_of(keras_fanwise.diagnose(model, x, y))
        yield "sound", f"seed {seed}", not found, ", ".join(sorted(found))
    for kind, what, training in faults(model, x, y):
        found = kinds_of(keras_fanwise.diagnose(*training))
        yield f"found: {kind}", what, kind in found, ", ".join(sorted(found))
    for start in wrong:
        initializer, right = STARTS[start]
        kernels_drawn(model, initializer, SEEDS)
        report = keras_fanwise.diagnose(model, x, y)
        found = kinds_of(report)
        yield "found: start", start, bool(found & right), ", ".join(sorted(found))
        before = train(RATES[0])
        line = report.rows[report.best].line
        if report.best:
            report.apply(seed=0)
        errors, loss = len(keras_fanwise.diagnose(model, x, y).errors), train(RATES[0])
        cured = not errors and loss <= _NEAR * max(losses)
        more = f"loss {before:.3g}, mended {loss:.3g}, built right {min(losses):.3g} to "
        yield (
            "cured",
            start,
            cured,
            f"{more}{max(losses):.3g}; {errors} errors left; {line}",
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the networks with this in their names")
    only = parser.parse_args().only
    counts: Counter[tuple[str, bool]] = Counter()
    with progress() as bar:
        names = [name for name in NETWORKS if only in name]
        for name in bar.track(names, description="networks"):
            for kind, what, right, more in outcomes(name):
                counts[kind, right] += 1
                if not right or kind == "cured":
                    mark = "" if right else "not right: "
                    line = f"{mark}{name}: {kind}: {what}: {more}"
                    console.print(line, soft_wrap=True, highlight=False)
            keras.backend.clear_session()
    print_machine()
    table = results_table("Of so many", ("what",), ("all", "right"))
    kinds = list(dict.fromkeys(kind for kind, _ in counts))
    for kind in kinds:
        table.add_row(
            kind, str(counts[kind, True] + counts[kind, False]), str(counts[kind, True])
        )
    console.print(table)

    def share(*of: str) -> float:
        right = sum(counts[kind, True] for kind in of)
        return right / max(1, right + sum(counts[kind, False] for kind in of))

    found = [kind for kind in kinds if kind.startswith("found")]
    is_good = share("sound") >= 1 - _FALSE_ALARMS and share(*found) >= _FOUND
    return int(not (is_good and share("cured") >= _CURED))


if __name__ == "__main__":
    sys.exit(main())
