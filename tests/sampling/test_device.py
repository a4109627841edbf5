"""Draws on the device have the bits of the host; here the device is the CPU."""

import functools

import keras
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.backends.arrays import wide
from keras_fanwise.backends.compute import compute
from keras_fanwise.initializers.base import DISTRIBUTIONS
from keras_fanwise.sampling import device, sampler
from keras_fanwise.sampling.sampler import DTYPES

from support.processes import needs

KEY = 0x0123456789ABCDEF0123456789ABCDEF
BACKEND = keras.backend.backend()
ON_JAX = needs("jax")
TRACING = pytest.mark.skipif(
    BACKEND == "torch" or not compute().can_be_traced,
    reason="PyTorch does not trace, nor JAX 0.4 64-bit numbers",
)
# Over one block, and one that ends within a counter.
SHAPE = (1_050, 1_001)


def array(tensor):
    """Also of bfloat16, which is exact in float32."""
    if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16":
        tensor = keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def differing(tensor, host):
    """How many values have other bits."""
    values = array(tensor)
    host = host.astype(np.float32) if host.dtype.name == "bfloat16" else host
    assert (values.dtype, values.shape) == (host.dtype, host.shape)
    kind = f"u{host.dtype.itemsize}"
    return np.count_nonzero(values.view(kind) != host.view(kind))


def check(family, dtype, shape, spread=0.1, mean=0.0, made=None):
    host = sampler.Stream(KEY).draw(family, shape, dtype, spread=spread, mean=mean)
    with wide():
        there = device.draw(made or compute(), KEY, (family, spread, mean), shape, dtype)
        return differing(there, host)


@pytest.mark.few(5)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", DISTRIBUTIONS)
def test_the_bits_of_the_host(family, dtype):
    assert check(family, dtype, SHAPE) == 0
    assert check(family, dtype, (33, 77), mean=0.3) == 0
    # Subnormal in float16 in part, and other shapes.
    for shape in ((), (7,), (2, 3, 8)):
        assert check(family, dtype, shape, spread=1e-5) == 0


# What differs without a guard, at least: products that feed sums, and what is rounded.
CONTROLS = [("truncated_normal", "float32"), ("untruncated_normal", "float64")]


@pytest.mark.few(1)
@TRACING
@pytest.mark.parametrize(("family", "dtype"), CONTROLS)
def test_without_guards_the_bits_differ(family, dtype):
    class Unguarded(compute()):
        def guard(self, values):
            return values

    assert check(family, dtype, SHAPE, made=Unguarded) > 1000


@pytest.mark.few(1)
@TRACING
@pytest.mark.parametrize(("family", "dtype"), CONTROLS)
def test_a_zero_that_the_compiler_knows_is_none(family, dtype):
    class Known(compute()):
        def __init__(self, zero):
            super().__init__(keras.ops.zeros((), "int64"))

    assert check(family, dtype, SHAPE, made=Known) > 1000


@needs("torch")
def test_the_square_root_of_pytorch_on_a_cpu_is_not_relied_on():
    import torch

    values = torch.rand(100_000, dtype=torch.float64)
    exact = np.sqrt(values.numpy())
    assert np.array_equal(compute().sqrt(values).numpy(), exact)


def initializers():
    return [
        kf.FanwiseHeNormal(seed=3),
        kf.FanwiseHeUniform(seed=2**40),
        kf.FanwiseGammaNoise(seed=5),
    ]


def on_host(monkeypatch, function):
    with monkeypatch.context() as patch:
        patch.setenv("KERAS_FANWISE_DRAW", "host")
        return array(function())


@pytest.mark.parametrize("initializer", initializers(), ids=repr)
def test_by_the_environment(initializer, monkeypatch):
    host = on_host(monkeypatch, lambda: initializer((5, 7)))
    monkeypatch.setattr(sampler, "_fill", None)
    monkeypatch.setenv("KERAS_FANWISE_DRAW", "device")
    assert differing(initializer((5, 7)), host) == 0
    monkeypatch.setenv("KERAS_FANWISE_DRAW", "gpu")
    message = "`KERAS_FANWISE_DRAW` must be 'host' or 'device'. Received: .*'gpu'"
    with pytest.raises(ValueError, match=message):
        initializer((5, 7))


def chosen(platform, shape=(1024, 1024), dtype="float32", numbers=(0.1, 0.0), **kwargs):
    members = {
        "platform": staticmethod(lambda _=None: platform),
        "is_traced": staticmethod(lambda: kwargs.get("of_state", False)),
        "can_be_traced": kwargs.pop("can_be_traced", True),
    }
    made = type("Made", (compute(),), members)
    return device.is_chosen(made, ("uniform", *numbers), shape, dtype, **kwargs)


def test_where_it_is_chosen(monkeypatch):
    assert chosen("gpu")
    assert not chosen("gpu", (1024, 1023))
    assert not chosen("gpu", (0, 2**30))
    assert not chosen("cpu", (2**15, 2**15))
    assert not chosen("mps")
    # Where values would be subnormal, or overflow on the way.
    assert not chosen("gpu", numbers=(1e-30, 0.0))
    assert not chosen("gpu", numbers=(0.1, 1e30))
    assert not chosen("tpu")
    assert chosen("tpu", (4096, 4096))
    assert chosen("tpu", (3,), of_state=True)
    assert not chosen("tpu", (3,), of_state=True, can_be_traced=False)
    assert not chosen("tpu", (4096, 4096), "float64")
    assert not chosen("tpu", (4096, 4096), numbers=(0.1, 1.0))
    monkeypatch.setenv("KERAS_FANWISE_DRAW", "device")
    assert chosen("gpu", (1,))
    assert chosen("cpu", (1,))
    assert not chosen("mps")
    monkeypatch.setenv("KERAS_FANWISE_DRAW", "host")
    assert not chosen("gpu")


def traced(function):
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    import jax

    return jax.jit(function)


@pytest.mark.few(2)
@TRACING
@pytest.mark.parametrize(
    ("initializer", "shape"),
    [
        (initializers()[place % 3], shape)
        for place, shape in enumerate([(), (5, 3), (2, 64, 48)])
    ],
)
def test_in_a_traced_function(initializer, shape, monkeypatch):
    host = on_host(monkeypatch, lambda: initializer(shape))
    monkeypatch.setattr(sampler, "_fill", None)
    assert differing(traced(lambda: initializer(shape))(), host) == 0


@TRACING
def test_an_integer_seed_is_no_constant_in_a_program():
    draw = kf.FanwiseHeNormal(seed=1)
    shape = (1000, 1000)
    if BACKEND == "jax":
        import jax

        assert len(jax.jit(lambda: draw(shape)).lower().as_text()) < 1_000_000
        return
    graph = traced(lambda: draw(shape)).get_concrete_function().graph.as_graph_def()
    assert graph.ByteSize() < 1_000_000


@needs("tensorflow")
def test_in_a_compiled_function_of_tensorflow():
    import tensorflow as tf

    draw = kf.FanwiseNormal(seed=1)
    host = array(draw((40, 50)))
    assert differing(tf.function(lambda: draw((40, 50)), jit_compile=True)(), host) == 0


@ON_JAX
def test_under_vmap():
    import jax

    draw = kf.FanwiseHeNormal(seed=1)
    several = jax.vmap(lambda x: x + draw((6, 5)))(np.zeros(3, np.float32))
    for one in several:
        assert differing(one, array(draw((6, 5)))) == 0


@TRACING
def test_a_generator_in_a_traced_function():
    """It advances, call by call, as outside."""
    inside, outside = (
        kf.FanwiseHeNormal(seed=keras.random.SeedGenerator(2**31)) for _ in range(2)
    )
    hosts = [array(outside((6, 5))) for _ in range(3)]
    if BACKEND == "tensorflow":
        draw = traced(lambda: inside((6, 5)))
        values = [draw() for _ in hosts]
    else:
        state, values = inside.seed.state, []

        @traced
        def draw(now):
            with keras.StatelessScope([(state, now)]) as scope:
                return inside((6, 5)), scope.get_current_value(state)

        now = state.value
        for _ in hosts:
            value, now = draw(now)
            values.append(value)
    for value, host in zip(values, hosts, strict=True):
        assert differing(value, host) == 0


@pytest.mark.few(2)
@ON_JAX
@pytest.mark.parametrize("family", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_parts(family, dtype):
    shape = (30, 9, 50)
    for index in (
        (slice(3, 20), slice(None), slice(None)), (slice(0, 9), slice(2, 3), slice(8, 50)),
        (slice(None), slice(None), slice(7, 8)), (slice(5, 6), slice(1, 4), slice(None)),
    ):  # fmt: skip
        host = sampler.Stream(KEY).draw(family, shape, dtype, index=index)
        with wide():
            there = device.draw(compute(), KEY, (family, 1.0, 0.0), shape, dtype, index)
            assert differing(there, host) == 0


@pytest.fixture
def nothing_compiled(monkeypatch):
    monkeypatch.setattr(device, "_block", functools.cache(device._block.__wrapped__))


@TRACING
def test_one_compiled_function_serves_all_shapes(nothing_compiled):
    for shape in ((3,), (70, 80), (1025, 1025)):
        device.draw(compute(), KEY, ("uniform", 1.0 / len(shape), 0.0), shape)
    assert device._block.cache_info().currsize == 1
    if BACKEND == "jax":
        program = (compute(), "uniform", "float32", "float32", False)
        block = device._block(*program, compute().block // 8, alone=True)
        assert block._cache_size() == 1


@TRACING
def test_a_gpu_has_blocks_of_its_own(nothing_compiled):
    """Two sizes, one after the other: smaller ones here."""
    members = {"platform": staticmethod(lambda _=None: "gpu")}
    made = type("Gpu", (compute(),), members | {"block": 1 << 10, "gpu_block": 1 << 14})
    assert check("truncated_normal", "bfloat16", (147, 129), made=made) == 0
    assert device._block.cache_info().currsize == 2


@needs("torch")
@pytest.mark.parametrize("family", ["uniform", "truncated_normal"])
def test_operations_that_take_numbers_of_the_host(family):
    """Those of Philox alone; the device is one without values."""
    import torch

    mixed = set()

    class Devices(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            tensors = [x for x in args if isinstance(x, torch.Tensor)]
            if len({x.device for x in tensors}) > 1:
                mixed.add(function.__name__)
            return function(*args, **(kwargs or {}))

    for dtype in DTYPES:
        with keras.device("meta"), Devices():
            made = device.draw(compute(), KEY, (family, 0.1, 0.5), (33, 7), dtype)
        assert made.device.type == "meta"
        assert made.shape == (33, 7)
    assert mixed <= {"add", "xor", "__xor__", "bitwise_xor"}
    assert mixed


def lookup():
    """As on a device without 64-bit floats, where a table gives the values."""
    return type("Table", (compute(),), {"platform": staticmethod(lambda _=None: "tpu")})


@pytest.mark.few(3)
@ON_JAX
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("family", DISTRIBUTIONS)
def test_values_from_a_table(family, dtype):
    assert check(family, dtype, (1001, 37), made=lookup()) == 0


@ON_JAX
@TRACING
def test_it_can_be_lowered_for_a_tpu():
    """Never run there: without 64-bit floats, and without bits taken from 64-bit integers."""
    import jax
    import jax.export

    def draw():
        return device.draw(lookup(), KEY, ("truncated_normal", 0.1, 0.0), (64, 64))

    exported = jax.export.export(jax.jit(draw), platforms=["tpu"])()
    text = exported.mlir_module()
    assert "f64" not in text
    casts = [line for line in text.splitlines() if "bitcast_convert" in line]
    assert casts
    assert not any("i64" in line for line in casts)


@pytest.mark.parametrize("start", ["initialize", "reinitialize", "skip_init"])
def test_whole_models(start, monkeypatch):
    def weights():
        with kf.skip_init() if start == "skip_init" else keras.name_scope("any"):
            draw = kf.FanwiseHeNormal(seed=4)
            layers = [
                keras.layers.Dense(8, name=name, kernel_initializer=draw) for name in "ab"
            ]
            model = keras.Sequential([keras.Input((5,)), *layers], name="net")
        if start == "initialize":
            kf.initialize(model, "fanwise_he_uniform", seed=3)
        elif start == "reinitialize":
            kf.reinitialize(model, seed=3)
        return model.get_weights()

    monkeypatch.setenv("KERAS_FANWISE_DRAW", "host")
    host = weights()
    monkeypatch.setattr(sampler, "_fill", None)
    monkeypatch.setenv("KERAS_FANWISE_DRAW", "device")
    for one, other in zip(weights(), host, strict=True):
        assert one.tobytes() == other.tobytes()
