"""What a diagnosis costs, in forward and backward passes of the same model and batch.

    python benchmarks/diagnose_cost.py

Networks of 200 dense layers on 512 samples: one that starts well, one that a start mends,
and one that none of the starts mends. A pass is a step of
`train_on_batch` that is not compiled, by SGD. Times are the shortest of several, which
take turns, once everything is warm. The exit code is 1 if a diagnosis takes longer than 25
passes.
"""

import sys
from collections.abc import Callable
from typing import Any

from harness import (
    console,
    fastest_seconds,
    finished,
    fresh_process,
    installed_backends,
    print_machine,
    progress,
    results_table,
)

# Activation and initializer of the hidden layers.
CASES = {
    "starts well": ("relu", "fanwise_he_normal"),
    "is mended": ("relu", "glorot_uniform"),
    "is not mended": ("sigmoid", "glorot_uniform"),
}
LAYERS, SAMPLES, WIDTH, CLASSES = 200, 512, 64, 10
_ROUNDS, _AIM = 3, 25


def main() -> int:
    print_machine()
    backends = installed_backends()
    table = results_table(
        f"A diagnosis of {LAYERS} layers, {SAMPLES} samples",
        ("backend", "the model"),
        ("starts tried", "ms", "a pass's", "passes"),
    )
    most = 0.0
    cases = [(backend, case) for backend in backends for case in CASES]
    with progress() as bar:
        for backend, case in bar.track(cases, description="diagnoses"):
            with fresh_process(backend) as process:
                tried, diagnosis, one = process.submit(seconds, *CASES[case]).result()
            ratio = diagnosis / one
            most = max(most, ratio)
            row = str(tried), f"{1e3 * diagnosis:.0f}", f"{1e3 * one:.0f}", f"{ratio:.1f}"
            table.add_row(backend, case, *row)
    console.print(table)
    return int(most > _AIM)


def seconds(activation: str, initializer: str) -> tuple[int, float, float]:
    """How many starts are tried, and the seconds of a diagnosis and of a pass."""
    import keras
    import numpy as np
    from keras import layers

    import keras_fanwise

    keras.utils.set_random_seed(0)
    inputs = [keras.Input((WIDTH,))]
    body = [
        layers.Dense(WIDTH, activation, kernel_initializer=initializer)
        for _ in range(LAYERS - 1)
    ]
    model = keras.Sequential([*inputs, *body, layers.Dense(CLASSES, "softmax")])
    # Of a rate of 0, so that all are of one start.
    still = keras.optimizers.SGD(0.0)
    model.compile(still, "sparse_categorical_crossentropy", run_eagerly=True)
    x = np.random.default_rng(0).standard_normal((SAMPLES, WIDTH), "float32")
    y = np.arange(SAMPLES) % CLASSES
    calls: dict[str, Callable[[], Any]] = {
        "diagnosis": lambda: keras_fanwise.diagnose(model, x, y),
        "pass": lambda: finished(model.train_on_batch(x, y)),
    }
    tried = len(calls["diagnosis"]().rows) - 1
    fastest = fastest_seconds(calls, 1, _ROUNDS)
    return tried, fastest["diagnosis"], fastest["pass"]


if __name__ == "__main__":
    sys.exit(main())
