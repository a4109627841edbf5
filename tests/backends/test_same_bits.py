"""The same seed, the same bits, on every backend."""

import json

import pytest

from support.processes import on_others, run_python

pytestmark = pytest.mark.multi_backend


DRAW = """
import hashlib, json
import keras, numpy as np
import keras_fanwise
from support.any_weight import ANY_WEIGHT

if keras.backend.backend() == "jax":
    import jax
    jax.config.update("jax_enable_x64", True)

hashes = {}
for cls in ANY_WEIGHT:
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        for seed in (1, 2**40, "generator"):
            if seed == "generator":
                initializer = cls(seed=keras.random.SeedGenerator(2**31 - 1))
                initializer((1, 1, 5))
            else:
                initializer = cls(seed=seed)
            tensor = initializer((2, 150, 500), dtype=dtype)
            assert keras.backend.standardize_dtype(tensor.dtype) == dtype
            # bfloat16 is exact in float32.
            wide = keras.ops.cast(tensor, "float64" if dtype == "float64" else "float32")
            values = np.ascontiguousarray(keras.ops.convert_to_numpy(wide))
            assert values.std() > 0
            digest = hashlib.sha256(values.tobytes()).hexdigest()
            hashes[f"{cls.__name__} {dtype} {seed}"] = digest

def digest_of(layer):
    random = [w for w in layer.weights if w.name.endswith("kernel")]
    values = [np.ascontiguousarray(keras.ops.convert_to_numpy(w.value * 1)) for w in random]
    return len(random), hashlib.sha256(b"".join(v.tobytes() for v in values)).hexdigest()

for seed in (7, None):
    keras.utils.set_random_seed(3)
    initializer = keras_fanwise.FanwiseHeNormal(seed=seed)
    inputs = keras.Input((6, 8))
    x = keras.layers.MultiHeadAttention(2, 4, kernel_initializer=initializer)(inputs, inputs)
    x = keras.layers.Bidirectional(keras.layers.GRU(4, kernel_initializer=initializer, recurrent_initializer="fanwise_orthogonal"))(x)
    x = keras.layers.Dense(3, kernel_initializer="fanwise_glorot_uniform")(x)
    model = keras.Model(inputs, x)
    hashes[f"a model from seed {seed}"] = digest_of(model)
for name in ("tanh", "sigmoid", "gelu", "silu", "elu", "selu", "softplus", "mish"):
    hashes[f"gain of {name}"] = keras_fanwise.gain(name)
print(json.dumps(hashes))
"""


@pytest.fixture(scope="module")
def reference():
    """On the backend of this run."""
    return run_python(DRAW).splitlines()[-1]


@pytest.mark.parametrize("backend", on_others())
def test_same_bits_on_every_backend(backend, reference):
    assert run_python(DRAW, backend=backend).splitlines()[-1] == reference


def test_other_seeds_classes_and_dtypes_give_other_bits(reference):
    # Or the equality above would hold for want of a difference. By default
    # FanwiseVarianceScaling is LeCun's.
    hashes = json.loads(reference)
    others = [str(hashes[key]) for key in hashes if "VarianceScaling" not in key]
    assert len(set(others)) == len(others) > 90
