"""The same seed, the same bits, on every backend."""

import pytest

from processes import BACKENDS, run_python, skip_if_missing

DRAW = """
import hashlib, json
import keras, numpy as np
import keras_fanwise
from keras_fanwise.registration import CLASSES

if keras.backend.backend() == "jax":
    import jax
    jax.config.update("jax_enable_x64", True)

hashes = {}
for cls in CLASSES:
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        for seed in (1, 2**40, "generator"):
            if seed == "generator":
                initializer = cls(seed=keras.random.SeedGenerator(2**31 - 1))
                initializer((5,))
            else:
                initializer = cls(seed=seed)
            tensor = initializer((300, 500), dtype=dtype)
            assert keras.backend.standardize_dtype(tensor.dtype) == dtype
            # bfloat16 is exact in float32.
            wide = keras.ops.cast(tensor, "float64" if dtype == "float64" else "float32")
            values = np.ascontiguousarray(keras.ops.convert_to_numpy(wide))
            assert values.std() > 0
            digest = hashlib.sha256(values.tobytes()).hexdigest()
            hashes[f"{cls.__name__} {dtype} {seed}"] = digest
keras.utils.set_random_seed(3)
model = keras.Sequential([
    keras.Input((6, 6, 2)),
    keras.layers.Conv2D(3, 3, kernel_initializer="fanwise_he_normal"),
    keras.layers.Flatten(),
    keras.layers.Dense(4, kernel_initializer="fanwise_glorot_uniform"),
])
hashes["unseeded model"] = [float(w.sum()) for w in model.get_weights()]
print(json.dumps(hashes))
"""


@pytest.fixture(scope="module")
def reference():
    """On the backend of this run."""
    return run_python(DRAW).splitlines()[-1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_bits_on_every_backend(backend, reference):
    skip_if_missing(backend)
    assert run_python(DRAW, backend=backend).splitlines()[-1] == reference


def test_another_seed_is_caught(reference):
    assert run_python(DRAW.replace("2**40", "2**41")).splitlines()[-1] != reference
