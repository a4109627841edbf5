"""What the seam adds to the creation of a weight, in microseconds.

    python benchmarks/seam.py

Builds the same layer through `keras.Layer.add_weight` as the package wraps it and as
Keras has it, in turns, and takes the difference of the medians.
"""

import statistics
import time

import keras

import keras_fanwise

from harness import console, print_machine

WEIGHTS = 100
ROUNDS = 30


def microseconds(initializer: keras.initializers.Initializer) -> float:
    """To create one weight of a layer."""
    layer = keras.layers.Layer(name="block_3")
    start = time.perf_counter()
    for index in range(WEIGHTS):
        layer.add_weight(shape=(8, 8), initializer=initializer, name=f"kernel_{index}")
    return 1e6 * (time.perf_counter() - start) / WEIGHTS


def main() -> None:
    print_machine()
    wrapped = keras.Layer.add_weight
    sides = {"wrapped": wrapped, "plain": wrapped.__wrapped__}
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


if __name__ == "__main__":
    main()
