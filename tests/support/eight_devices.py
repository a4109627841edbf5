"""What the tests of layouts do in a process of their own, on eight virtual devices of JAX.

Each check raises if something is not as it should be.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import functools
import math
import tempfile

import jax
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_fanwise as kf
from keras_fanwise.backends.arrays import layout_of
from keras_fanwise.sampling import sampler as sampling

from support.any_weight import ANY_WEIGHT
from support.models import arrays, equal

layers = keras.layers
MESHES = {
    names: keras.distribution.DeviceMesh(
        shape, list(names), keras.distribution.list_devices("cpu")
    )
    for names, shape in (("a", (8,)), ("ab", (2, 4)), ("abc", (2, 2, 2)))
}
INITIALIZERS = [
    # Orthogonal matrices are drawn whole, and need two axes.
    *(cls(seed=3) for cls in ANY_WEIGHT if not issubclass(cls, kf.FanwiseOrthogonal)),
    kf.FanwiseVarianceScaling(distribution="untruncated_normal", seed=4),
    kf.FanwiseHeUniform(seed=5, sampler="backend"),
    kf.FanwiseLecunNormal(seed=5, sampler="backend"),
]


# Of a layout. Keras 3.8 and the JAX of its time have the last alone.
FORMS = ["keras"] * hasattr(keras.distribution.TensorLayout, "backend_layout")
FORMS += ["abstract"] * hasattr(jax, "set_mesh") + ["jax"]


@st.composite
def spread_shapes(draw):
    """A mesh, how to spread axes over it, and a shape that can be spread so."""
    names = draw(st.sampled_from(sorted(MESHES)))
    mesh = MESHES[names]
    rank = draw(st.integers(1, 5))
    axes = [*names, *[None] * rank]
    chosen = draw(st.permutations(axes))[:rank]
    sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
    factors = [draw(st.sampled_from([1, 2, 3, 7, 24])) for _ in range(rank)]
    shape = tuple(
        factor * sizes.get(name, 1) for factor, name in zip(factors, chosen, strict=True)
    )
    return mesh, chosen, shape


def check(initializer, mesh, axes, shape, dtype, form):
    """The value has the layout, and the values of the whole drawn on one device."""
    layout = keras.distribution.TensorLayout(axes, mesh)
    sharding = spread_over(mesh, axes)
    make = functools.partial(initializer, shape, dtype=dtype)
    if form == "abstract":
        abstract = jax.sharding.NamedSharding(sharding.mesh.abstract_mesh, sharding.spec)
        with jax.set_mesh(sharding.mesh):
            spread = make(layout=abstract)
    else:
        spread = make(layout=layout if form == "keras" else sharding)
    assert spread.sharding.is_equivalent_to(sharding, len(shape))
    whole = np.asarray(make())
    assert spread.dtype == whole.dtype
    for shard in spread.addressable_shards:
        assert np.asarray(shard.data).tobytes() == whole[shard.index].tobytes()
    assert len(spread.addressable_shards) == 8


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    spread_shapes(),
    st.sampled_from(INITIALIZERS),
    st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
    st.sampled_from(FORMS),
)
def draws(spread_shape, initializer, dtype, form):
    check(initializer, *spread_shape, dtype, form)


def large_draws():
    """Of several chunks, with runs that are drawn apart."""
    mesh = MESHES["ab"]
    for shape, axes in (
        ((4096, 16384), (None, "b")), ((4096, 4096), ("b", "a")), ((2**23,), ("b",)),
        ((16, 8, 64, 512), (None, "b", None, "a")), ((2**20, 8), (None, "a")),
    ):  # fmt: skip
        check(kf.FanwiseHeNormal(seed=1), mesh, axes, shape, "float32", "jax")


def a_fault_is_noticed():
    """Every shard is the first."""
    original = sampling.Subarray

    def first(shape, index=None):
        return original(shape, index and [slice(0, s.stop - s.start) for s in index])

    sampling.Subarray = first
    try:
        with pytest.raises(AssertionError):
            check(INITIALIZERS[0], MESHES["a"], [None, "a"], (4, 16), "float32", "jax")
    finally:
        sampling.Subarray = original


def each_shard_is_drawn_once():
    """And no more of the tensor than that; shards that several devices hold, too."""
    drawn = recorded_draws()
    mesh = MESHES["ab"]
    kf.FanwiseHeNormal(seed=1)((64, 32), layout=spread_over(mesh, (None, "b")))
    assert drawn == [(64, 8)] * 4
    drawn.clear()
    kf.FanwiseHeNormal(seed=1)((64, 32), layout=spread_over(mesh, (None, None)))
    assert drawn == [(64, 32)]
    generator = keras.random.SeedGenerator(3)
    drawn.clear()
    kf.FanwiseHeNormal(seed=generator)((64, 32), layout=spread_over(mesh, ("a", "b")))
    kf.FanwiseHeNormal(seed=again(generator))((64, 32))
    assert drawn == [(32, 8)] * 8 + [(64, 32)]


def again(generator):
    """A generator that has advanced once less, from its beginning."""
    assert int(keras.ops.convert_to_numpy(generator.state.value)[1]) == 1
    return keras.random.SeedGenerator(3)


def spread_over(mesh, axes):
    devices = np.array(jax.devices()).reshape(mesh.shape)
    spec = jax.sharding.PartitionSpec(*axes)
    return jax.sharding.NamedSharding(jax.sharding.Mesh(devices, mesh.axis_names), spec)


def recorded_draws():
    """The shapes of all that is drawn from now on."""
    drawn, original = [], kf.Stream.draw

    def recorded(*args, **kwargs):
        values = original(*args, **kwargs)
        drawn.append(values.shape)
        return values

    kf.Stream.draw = recorded
    return drawn


def bad_layouts():
    initializer, mesh = kf.FanwiseHeNormal(seed=1), MESHES["a"]
    with pytest.raises(TypeError, match=r"`layout` must be None, a keras.*Received"):
        initializer((8, 8), layout=(None, "a"))
    with pytest.raises(ValueError, match="divi"):
        initializer((8, 9), layout=spread_over(mesh, (None, "a")))
    if "abstract" not in FORMS:
        return
    sharding = spread_over(mesh, (None, "a"))
    abstract = jax.sharding.NamedSharding(sharding.mesh.abstract_mesh, sharding.spec)
    with pytest.raises(ValueError, match="current mesh"):
        initializer((8, 8), layout=abstract)


def transformer():
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(16, 8, embeddings_initializer="fanwise_lecun_normal")(inputs)
    attended = layers.MultiHeadAttention(2, 4, kernel_initializer="fanwise_glorot_normal")(
        x, x
    )
    x = layers.LayerNormalization()(layers.Add()([x, attended]))
    mixed = layers.Dense(16, "gelu", kernel_initializer="fanwise_he_normal")(x)
    x = layers.Add()([x, layers.Dense(8, kernel_initializer="fanwise_he_normal")(mixed)])
    head = layers.Dense(8, kernel_initializer="fanwise_glorot_uniform", name="head")
    return keras.Model(inputs, head(layers.GlobalAveragePooling1D()(x)))


def depthwise():
    inputs = keras.Input((8, 8, 8))
    x = layers.DepthwiseConv2D(3, depthwise_initializer="fanwise_he_normal")(inputs)
    x = layers.Conv2D(16, 1, activation="relu", kernel_initializer="fanwise_he_normal")(x)
    x = layers.BatchNormalization(gamma_initializer="fanwise_gamma_noise")(x)
    return keras.Model(inputs, layers.Dense(8)(layers.GlobalAveragePooling2D()(x)))


def distributions():
    layout_map = keras.distribution.LayoutMap(MESHES["ab"])
    layout_map["^(dense|head).*kernel"] = (None, "b")
    layout_map["^conv2d.*kernel"] = (None, None, None, "b")
    layout_map[".*embeddings"] = ("b", None)
    layout_map[".*(query|key|value)/kernel"] = (None, "a", "b")
    return {
        "one device": None,
        "data": keras.distribution.DataParallel(
            devices=keras.distribution.list_devices("cpu")
        ),
        "model": keras.distribution.ModelParallel(
            layout_map=layout_map, batch_dim_name="a"
        ),
    }


def same(ones, others):
    return all(equal(ones, others))


def models():
    """Built, trained, saved and loaded as on one device."""
    for make in (transformer, depthwise):
        started, trained = {}, {}
        for name, distribution in distributions().items():
            if distribution is not None:
                keras.distribution.set_distribution(distribution)
            keras.utils.set_random_seed(1)
            model = make()
            started[name] = arrays(model)
            shape = (16, *model.input_shape[1:])
            x = np.arange(math.prod(shape)).reshape(shape) % 16
            model.compile("sgd", "mse")
            # Keras 3.8 shuffles the rows of a batch on its devices without order.
            model.fit(
                x, np.ones((16, 8)), batch_size=16, epochs=3, shuffle=False, verbose=0
            )
            trained[name] = arrays(model)
            spread_weights = [layout_of(w.value) for w in model.weights]
            assert all(found is None for found in spread_weights) == (distribution is None)
            with tempfile.TemporaryDirectory() as folder:
                model.save(folder + "/model.keras")
                keras.distribution.set_distribution(None)
                loaded = keras.saving.load_model(folder + "/model.keras")
            assert same(arrays(loaded), trained[name])
        for name in ("data", "model"):
            assert same(started["one device"], started[name]), (make, name)
            for one, other in zip(trained["one device"], trained[name], strict=True):
                # Sums over devices are in another order.
                assert np.allclose(one, other, rtol=1e-4, atol=1e-5), (make, name)


def whole_models():
    """`initialize` and `reinitialize` keep the layouts, and draw nothing but shards."""
    for recipe in ("he", None):
        keras.utils.set_random_seed(1)  # for what the recipe keeps
        alone = transformer()
        start = kf.initialize if recipe else kf.reinitialize
        arguments = () if recipe is None else (recipe,)
        expected = start(alone, *arguments, seed=5)
        keras.distribution.set_distribution(distributions()["model"])
        keras.utils.set_random_seed(1)
        model = transformer()
        keras.distribution.set_distribution(None)
        before = [weight.value.sharding for weight in model.weights]
        drawn = recorded_draws()
        report = start(model, *arguments, seed=5)
        assert same(arrays(alone), arrays(model))
        for weight, sharding in zip(model.weights, before, strict=True):
            assert weight.value.sharding == sharding
        assert (8, 1, 1) in drawn  # an eighth of the query
        assert (8, 2, 4) not in drawn
        for one, other in zip(expected.rows, report.rows, strict=True):
            assert one._replace(std=0, path="") == other._replace(std=0, path="")
            assert math.isclose(one.std, other.std, rel_tol=1e-9)


def generators():
    """Made inside the scope of a distribution or outside, drawn from by layers."""

    def kernels(generator, sampler):
        initializer = kf.FanwiseHeNormal(seed=generator, sampler=sampler)
        dense = [
            layers.Dense(8, kernel_initializer=initializer, name="dense_x") for _ in "12"
        ]
        for layer in dense:
            layer.build((None, 16))
        state = generator.state.value
        return [*(np.asarray(layer.kernel.value) for layer in dense), np.asarray(state * 1)]

    for sampler in ("portable", "backend"):
        expected = kernels(keras.random.SeedGenerator(3), sampler)
        assert not np.array_equal(*expected[:2])
        for distribution in ("data", "model"):
            outside = keras.random.SeedGenerator(3)
            keras.distribution.set_distribution(distributions()[distribution])
            inside = keras.random.SeedGenerator(3)
            found = [kernels(generator, sampler) for generator in (outside, inside)]
            keras.distribution.set_distribution(None)
            assert all(same(expected, each) for each in found)


def replicas_stay_apart():
    """Devices that were given one piece of memory may write to theirs."""
    layout = spread_over(MESHES["a"], (None, None))
    value = kf.FanwiseHeNormal(seed=1)((512, 512), layout=layout)
    before = np.array(value)
    doubled = jax.jit(lambda x: 2 * x, donate_argnums=0, out_shardings=layout)
    result = doubled(value)
    for shard in result.addressable_shards:
        assert np.array_equal(np.asarray(shard.data), 2 * before)


def loading():
    """What is put off has the layout, and at the end the values, of what is not."""
    for make in (transformer, depthwise):
        for distribution in distributions().values():
            keras.distribution.set_distribution(distribution)
            keras.utils.set_random_seed(1)
            expected = make()
            keras.utils.set_random_seed(1)
            drawn = recorded_draws()
            with kf.skip_init() as skipped:
                model = make()
                assert drawn == []
                filled = model.layers[-1].kernel
                filled.assign(np.ones(filled.shape))
            keras.distribution.set_distribution(None)
            for weight, other in zip(model.weights, expected.weights, strict=True):
                assert weight.value.sharding == other.value.sharding, weight.path
            model.layers[-1].kernel.assign(expected.layers[-1].kernel)
            assert same(arrays(model), arrays(expected))
            assert skipped.drawn
            assert filled.path not in skipped.drawn


def memory():
    """Beyond the result at most the largest shard and 64 MB."""
    from pathlib import Path

    def hwm():
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])

    kf.FanwiseHeNormal(seed=1)((1024, 1024), layout=spread_over(MESHES["a"], ("a", None)))
    for axes in (("a", None), (None, "a")):
        Path("/proc/self/clear_refs").write_text("5")
        before = hwm()
        shape = (2**13, 2**13)
        value = kf.FanwiseHeNormal(seed=1)(shape, layout=spread_over(MESHES["a"], axes))
        result = 4 * math.prod(shape)
        assert hwm() - before <= result + result // 8 + 64e6, (axes, hwm() - before)
        del value


def on_the_devices():
    """Shards drawn where they are to be, and by a compiled function that is spread."""
    mesh = MESHES["ab"]
    normal, noise = kf.FanwiseHeNormal(seed=3), kf.FanwiseGammaNoise(seed=3)
    for initializer, shape, axes in (
        (normal, (64, 48), ("a", "b")), (normal, (3, 16, 32), (None, "a", "b")),
        (noise, (8, 5), ("a",)),
    ):  # fmt: skip
        sharding = spread_over(mesh, axes)
        whole = np.asarray(initializer(shape))
        os.environ["KERAS_FANWISE_DRAW"] = "device"
        there = initializer(shape, layout=sharding)
        del os.environ["KERAS_FANWISE_DRAW"]
        program = jax.jit(lambda: initializer(shape), out_shardings=sharding)  # noqa: B023
        for spread in (there, program()):
            assert spread.sharding.is_equivalent_to(sharding, len(shape))
            assert np.asarray(spread).tobytes() == whole.tobytes()
        text = program.lower().compile().as_text()
        for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
            assert word not in text


def global_state():
    """Of Keras and the libraries, after what reads and what writes a model."""
    from test_state import Positions, global_state_now

    keras.distribution.set_distribution(distributions()["data"])
    x = inputs = keras.Input((4, 8))
    x = Positions()(x)
    x = x + layers.MultiHeadAttention(2, 4)(x, x)
    model = keras.Model(inputs, x)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    before = global_state_now()
    kf.initialize(model, "he", seed=0, residual="zero")
    kf.reinitialize(model, seed=0)
    kf.signal(model)
    after = global_state_now()
    keras.distribution.set_distribution(None)
    assert [key for key in before | after if before.get(key) != after.get(key)] == []


def everything():
    for check_of in (
        memory,  # before others have taken some
        draws, large_draws, a_fault_is_noticed, each_shard_is_drawn_once, bad_layouts, generators,
        replicas_stay_apart, models, whole_models, loading, on_the_devices, global_state,
    ):  # fmt: skip
        check_of()
