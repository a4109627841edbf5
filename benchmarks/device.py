"""Draws on an accelerator: the bits of the host, and the time they take.

    python benchmarks/device.py                       # under 5 minutes on one GPU
    python benchmarks/device.py --size 1000000        # equality of fewer values
    python benchmarks/device.py --parts times --backends jax

Three parts for each backend, each in a process of its own with a limit on its time; a part
that fails leaves the others alone, and all of them print as they go.

- `equality`: how many of 10⁸ values differ between host and device, by family and type.
  Also of a shape that no block divides, and on JAX of parts of a tensor and inside
  `jax.jit`.
- `times`: a draw on the device, one by `keras.random` there, and one on the host, from
  which it travels, as in version 0.2 (`KERAS_FANWISE_DRAW=host`); shortest of five, and
  the first. And draws by blocks of other sizes, which PyTorch doubles for uniforms.
- `models`: `initialize` and `reinitialize` of 134 million weights, host and device, and
  whether they give the same weights.

Without an accelerator (or with `--cpu`) it draws on the CPU by the device's way.
"""

import argparse
import functools
import gc
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Draw = Callable[[], Any]

FAMILIES = ("uniform", "truncated_normal", "untruncated_normal")
DTYPES = ("float32", "float16", "bfloat16", "float64")
PARTS = {"equality": 85, "times": 60, "models": 25}  # seconds at most
BACKENDS = ("jax", "torch", "tensorflow")
KEY = 0x0123456789ABCDEF0123456789ABCDEF


def finished(tensor: Any) -> Any:
    """The tensor, once it is there."""
    if hasattr(tensor, "block_until_ready"):
        return tensor.block_until_ready()
    if getattr(tensor, "is_cuda", False):
        import torch

        torch.cuda.synchronize()
    elif not hasattr(tensor, "is_cuda"):
        tensor[..., :1].numpy()  # TensorFlow waits for values alone
    return tensor


def shortest(function: Draw, times: int = 5) -> tuple[float, float]:
    """Seconds: of the first call, and the shortest of the others."""
    durations = []
    for _ in range(times + 1):
        start = time.perf_counter()
        result = finished(function())
        durations.append(time.perf_counter() - start)
        del result
    return durations[0], min(durations[1:])


def drawn_at(where: str, function: Draw) -> Any:
    """What a function gives with `KERAS_FANWISE_DRAW` set."""
    os.environ["KERAS_FANWISE_DRAW"] = where
    try:
        return function()
    finally:
        del os.environ["KERAS_FANWISE_DRAW"]


def differing(host: Any, tensor: Any) -> int | str:
    """How many values of a tensor have other bits than an array."""
    import keras
    import numpy as np

    if host.dtype.name == "bfloat16":  # exact in float32
        tensor, host = keras.ops.cast(tensor, "float32"), host.astype(np.float32)
    values = np.asarray(keras.ops.convert_to_numpy(tensor))
    if (values.dtype, values.shape) != (host.dtype, host.shape):
        return f"all: {values.dtype} {values.shape} for {host.dtype} {host.shape}"
    kind = f"u{host.dtype.itemsize}"
    return int(np.count_nonzero(values.view(kind) != host.view(kind)))


def equality(size: int) -> None:
    """Prints how many values differ."""
    import keras

    from keras_fanwise.backends.arrays import wide
    from keras_fanwise.backends.compute import compute
    from keras_fanwise.sampling import device, sampler

    def compare(
        name: str, family: str, shape: Any, dtype: str, mean: float = 0.0, **part: Any
    ) -> None:
        start = time.perf_counter()
        numbers: Any = {"spread": 0.1, "mean": mean}
        host = sampler.Stream(KEY).draw(
            family, shape, dtype, **numbers, index=part.get("index")
        )
        spent = time.perf_counter() - start
        tensor = part.pop("draw", device.draw)(
            compute(), KEY, (family, 0.1, mean), shape, dtype, **part
        )
        found = differing(host, finished(tensor))
        total = time.perf_counter() - start
        print(
            f"  {name:9} {family:18} {dtype:8} mean {mean}: {found} of {host.size:.0e} "
            f"differ ({spent:.1f} s host, {total:.1f} s in all)",
            flush=True,
        )

    def some(mean: float, shape: Any) -> None:
        for family in FAMILIES:
            for dtype in DTYPES:
                with wide():  # or JAX has no float64
                    compare("whole", family, shape, dtype, mean)

    some(0.0, (size,))
    some(0.5, (1237, 1009))
    if keras.backend.backend() == "jax":
        import jax

        def traced(
            compute: Any, key: int, distribution: Any, shape: Any, dtype: str
        ) -> Any:
            return jax.jit(lambda: device.draw(compute, key, distribution, shape, dtype))()

        columns = (slice(3, None), slice(100, 900))
        for family in FAMILIES:
            compare("part", family, (2000, 1001), "float32", index=columns)
            compare("in jit", family, (2000, 1001), "float32", draw=traced)
            compare("in jit", family, (2000, 1024), "bfloat16", draw=traced)


def print_times(family: str, shape: Any, draw: Any, random: Any) -> None:
    """Of one tensor."""
    first, there = drawn_at("device", lambda: shortest(lambda: draw(shape)))
    first_keras, built_in = shortest(lambda: random(shape, seed=1))
    _, host = drawn_at("host", lambda: shortest(lambda: draw(shape), 2))
    print(
        f"  {family:18} {shape[0] * shape[1]:.0e}: device {1e3 * there:8.3f} ms, "
        f"keras.random {1e3 * built_in:8.3f} ms, host {1e3 * host:8.2f} ms; "
        f"device / Keras {there / built_in:6.2f}, host / device {host / there:6.1f}; "
        f"first draw: device {1e3 * first:.0f} ms, keras.random {1e3 * first_keras:.0f} ms",
        flush=True,
    )


def times(_size: int) -> None:
    """Prints seconds by family and size, and by the size of a block."""
    import keras

    import keras_fanwise as kf
    from keras_fanwise.backends.compute import compute
    from keras_fanwise.sampling import device

    ours = {
        "uniform": kf.FanwiseHeUniform(seed=1),
        "truncated_normal": kf.FanwiseHeNormal(seed=1),
        "untruncated_normal": kf.FanwiseNormal(seed=1),
    }
    theirs = {
        "uniform": keras.random.uniform,
        "truncated_normal": keras.random.truncated_normal,
        "untruncated_normal": keras.random.normal,
    }
    for shape in ((1000, 1000), (2500, 4000), (10_000, 10_000)):
        for family in FAMILIES:
            print_times(family, shape, ours[family], theirs[family])
    gc.collect()
    # The size of blocks where many values are left.
    size = "gpu_block" if compute().is_compiled else "block"
    usual = getattr(compute(), size)
    for family in FAMILIES[:2]:
        for bits in (23, 24, 25, 26):
            setattr(compute(), size, 1 << bits)
            distribution = (family, 0.1, 0.0)
            draw = functools.partial(
                device.draw, compute(), KEY, distribution, (10_000, 10_000)
            )
            first, there = shortest(draw, 3)
            print(
                f"  {size} of 2**{bits}{' (usual)' if 1 << bits == usual else ''}: 1e8 of "
                f"{family} in {1e3 * there:.2f} ms, the first in {first:.2f} s",
                flush=True,
            )
    setattr(compute(), size, usual)


def models(_size: int) -> None:
    """Prints seconds for whole models, and whether the weights are equal."""
    import keras
    import numpy as np

    import keras_fanwise as kf

    layers = [keras.layers.Dense(4096, activation="relu") for _ in range(8)]
    model = keras.Sequential([keras.Input((4096,)), *layers])
    weights: dict[str, Any] = {}
    for name, change in (
        ("initialize", lambda: kf.initialize(model, "fanwise_he_normal", seed=0)),
        ("reinitialize", lambda: kf.reinitialize(model, seed=1)),
    ):
        for where in ("host", "device", "device"):
            start = time.perf_counter()
            drawn_at(where, change)
            for weight in model.weights:
                finished(weight.value * 1)
            spent = time.perf_counter() - start
            print(f"  {name} on the {where}: {spent:.2f} s", flush=True)
            values = model.get_weights()
            kept = weights.setdefault(name, values)
            if kept is not values:
                same = all(map(np.array_equal, kept, values))
                print(f"  {name}: equal weights: {same}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "benchmark.weights.h5"
        model.save_weights(path)
        for where in ("host", "device"):

            def load() -> None:
                with kf.skip_init():
                    made = [keras.layers.Dense(4096, "relu") for _ in range(8)]
                    again = keras.Sequential([keras.Input((4096,)), *made])
                    again.load_weights(path)

            start = time.perf_counter()
            drawn_at(where, load)
            print(f"  skip_init, {where}: {time.perf_counter() - start:.2f} s", flush=True)


def run_here(part: str, size: int) -> None:
    """A part, in this process, on the backend that is set."""
    import keras

    print(f"{keras.backend.backend()}: {part}, on {keras.ops.zeros(1).device}", flush=True)
    {"equality": equality, "times": times, "models": models}[part](size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=1e8, help="values that are compared")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS[:2])
    parser.add_argument("--slow", type=float, default=1.0, help="times the limits")
    parser.add_argument("--cpu", action="store_true", help="hide accelerators")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        run_here(arguments.parts[0], int(arguments.size))
        return
    for part in arguments.parts:
        for backend in arguments.backends:
            if importlib.util.find_spec(backend) is None:
                print(f"{backend}: missing")
                continue
            command = [sys.executable, __file__, "--here", "--parts", part]
            command += ["--size", str(arguments.size)]
            environment = {**os.environ, "KERAS_BACKEND": backend}
            environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
            environment.pop("KERAS_FANWISE_DRAW", None)
            if arguments.cpu:
                environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
            start = time.perf_counter()
            try:
                limit = PARTS[part] * arguments.slow
                code = subprocess.run(command, env=environment, timeout=limit).returncode
                ended = f"exit code {code}"
            except subprocess.TimeoutExpired:
                ended = "stopped at its limit"
            spent = time.perf_counter() - start
            print(f"{backend}: {part}: {ended}, {spent:.0f} s", flush=True)


if __name__ == "__main__":
    main()
