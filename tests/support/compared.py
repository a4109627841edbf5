"""What is the same on every backend; a process on each prints it."""

import hashlib
import json
import tempfile
from typing import Any

import keras

import keras_fanwise as kf

from support.any_weight import ANY_WEIGHT
from support.models import MODELS, arrays, equal, structured_model, values_of

layers = keras.layers
# Of `support.models`.
COMPARED = ("subclassed", "recurrent", "attention", "half_precision")


def digest(tensors: list[Any]) -> str:
    """Of the bits; bfloat16 is exact in float32."""
    values = []
    for tensor in tensors:
        is_wide = keras.backend.standardize_dtype(tensor.dtype) == "float64"
        values.append(
            values_of(keras.ops.cast(tensor, "float64" if is_wide else "float32"))
        )
    return hashlib.sha256(b"".join(array.tobytes() for array in values)).hexdigest()


def draws() -> dict[str, str]:
    """By class, type and seed. JAX has float64 only if it is asked for."""
    found = {}
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
                assert values_of(keras.ops.cast(tensor, "float32")).std() > 0
                found[f"{cls.__name__} {dtype} {seed}"] = digest([tensor])
    return found


def models() -> dict[str, str]:
    """Built from a seed, and started from one."""
    found = {}
    for seed in (7, None):
        keras.utils.set_random_seed(3)
        he = kf.FanwiseHeNormal(seed=seed)
        inputs = keras.Input((6, 8))
        x = layers.MultiHeadAttention(2, 4, kernel_initializer=he)(inputs, inputs)
        recurrent = {
            "kernel_initializer": he,
            "recurrent_initializer": "fanwise_orthogonal",
        }
        x = layers.Bidirectional(layers.GRU(4, **recurrent))(x)
        x = layers.Dense(3, kernel_initializer="fanwise_glorot_uniform")(x)
        kernels = [w for w in keras.Model(inputs, x).weights if w.name.endswith("kernel")]
        assert len(kernels) == 9
        found[f"a model from seed {seed}"] = digest(kernels)
    rules = [
        kf.Rule("orthogonal", weight="recurrent_kernel", optional=True),
        kf.Rule("fanwise_he_normal", weight="*kernel", optional=True),
    ]
    for name in COMPARED:
        again, anew = MODELS[name](), MODELS[name]()
        kf.reinitialize(again, seed=5)
        kf.initialize(anew, rules, seed=5)
        kernels = [weight for weight in anew.weights if weight.name.endswith("kernel")]
        found[name] = digest([*again.weights, *kernels])
    return found


def structured() -> dict[str, str]:
    """Each weight of starts for one kind of layer, from a file and drawn anew."""
    model = structured_model()
    kf.reinitialize(model, seed=3)  # for Keras draws its own otherwise on each backend
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        loaded = keras.saving.load_model(f"{folder}/model.keras")
    assert all(equal(arrays(loaded), arrays(model)))
    found = {weight.path: digest([weight.value]) for weight in loaded.weights}
    kf.reinitialize(loaded, seed=7)
    anew = {f"{weight.path} anew": digest([weight.value]) for weight in loaded.weights}
    return found | anew


def signals() -> list[list[float]]:
    """Of each layer of a network; these agree but for what each backend rounds."""
    inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(8, 3, activation="relu")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(layers.Conv2DTranspose(4, 3, 2, activation="gelu")(x))
    model = keras.Model(inputs, layers.Dense(3, "softmax")(x))
    kf.initialize(model, "he", seed=1)
    rows = kf.signal(model).rows
    return [[row.mean, row.std, row.dead, row.gradient_std] for row in rows]


def main() -> None:
    """Prints all of it."""
    numbers = signals()
    bits = models() | structured()
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    gains = ("tanh", "sigmoid", "gelu", "silu", "elu", "selu", "softplus", "mish")
    bits |= draws() | {f"gain of {name}": repr(kf.gain(name)) for name in gains}
    print(json.dumps({"bits": bits, "signals": numbers}))
