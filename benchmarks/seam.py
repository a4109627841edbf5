"""What the package adds to the creation of a weight, and to the import of Keras.

    python benchmarks/seam.py

Builds the same layer through `keras.Layer.add_weight` as the package wraps it and as
Keras has it, in turns, and takes the difference of the medians. For the import Python
starts anew on each backend that is installed, and the shortest counts: whatever else the
machine does only ever adds.
"""

import os
import statistics
import subprocess
import sys
import time

import keras

import keras_fanwise
from keras_fanwise.backends.private_keras import SEAM

from harness import console, installed_backends, print_machine

WEIGHTS = 100
ROUNDS = 30
IMPORTS = 7
# Keras is imported first: the second import is that of the package alone.
IMPORT = """
import time
import keras
start = time.perf_counter()
import keras_fanwise
print(time.perf_counter() - start)
"""


def microseconds(initializer: keras.initializers.Initializer) -> float:
    """To create one weight of a layer."""
    layer = keras.layers.Layer(name="block_3")
    start = time.perf_counter()
    for index in range(WEIGHTS):
        layer.add_weight(shape=(8, 8), initializer=initializer, name=f"kernel_{index}")
    return 1e6 * (time.perf_counter() - start) / WEIGHTS


def import_seconds(backend: str) -> float:
    """To import the package in a process that has imported Keras."""
    result = subprocess.run(
        [sys.executable, "-c", IMPORT],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout)


def main() -> None:
    print_machine()
    wrapped = keras.Layer.add_weight
    sides = {"wrapped": wrapped, "plain": wrapped.__wrapped__}
    # Or each draw would try, and tell, that the seam is lost.
    setattr(wrapped.__wrapped__, SEAM, None)
    for name, initializer in (
        ("fanwise_he_normal, seed 1", keras_fanwise.FanwiseHeNormal(seed=1)),
        ("fanwise_he_normal, no seed", keras_fanwise.FanwiseHeNormal()),
        ("zeros", keras.initializers.Zeros()),
    ):
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(ROUNDS):
            for side, add_weight in sides.items():
                keras.Layer.add_weight = add_weight
                times[side].append(microseconds(initializer))
        with_seam, without = (statistics.median(each) for each in times.values())
        console.print(
            f"{name}: {with_seam:.1f} with the seam, {without:.1f} without it, "
            f"{with_seam - without:.1f} more"
        )
    keras.Layer.add_weight = wrapped
    for backend in installed_backends():
        fastest = min(import_seconds(backend) for _ in range(IMPORTS))
        console.print(f"{backend}: {fastest:.3f} s more than `import keras`")


if __name__ == "__main__":
    main()
