"""Peak memory of a new start of a whole model, in sizes of its weights. On Linux alone.

    python benchmarks/restart.py

One dense network with the state of Adam, 134 million weights, on each backend that is
installed: what `initialize` and `reinitialize` take beyond the model and its optimizer, and
what a plan takes. Every call runs in a process of its own.
"""

import importlib.util

from harness import console, fresh_process, print_machine, results_table
from memory import peak_growth

UNITS, LAYERS = 4096, 8
BACKENDS = ("tensorflow", "jax", "torch")
CALLS = ("initialize", "reinitialize", "initialize, dry run")


def growth(call: str) -> float:
    """The peak of a call, in sizes of the weights."""
    import keras

    import keras_fanwise

    dense = [keras.layers.Dense(UNITS, use_bias=False) for _ in range(LAYERS)]
    model = keras.Sequential([keras.Input((UNITS,)), *dense])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    keras_fanwise.initialize(small, "he", seed=0)  # loads what is loaded once
    calls = {
        "initialize": lambda: keras_fanwise.initialize(model, "he", seed=0),
        "reinitialize": lambda: keras_fanwise.reinitialize(model, seed=0),
        "initialize, dry run": lambda: keras_fanwise.initialize(
            model, "zeros", seed=0, dry_run=True
        ),
    }
    return peak_growth(calls[call])[0] / (4 * UNITS * UNITS * LAYERS)


def main() -> None:
    print_machine()
    table = results_table("Peak memory beyond the model", ("backend",), CALLS)
    for backend in BACKENDS:
        if importlib.util.find_spec(backend) is None:
            console.print(f"{backend} is not installed")
            continue
        cells = []
        for call in CALLS:
            with fresh_process(backend) as process:
                cells.append(f"{process.submit(growth, call).result():.2f}")
        table.add_row(backend, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
