"""Every error names the argument, says what is allowed and ends with what it got."""

import math
import re

import keras
import numpy as np
import pytest

import keras_fanwise as kf

from support.processes import needs

BAD_ARGUMENTS = [
    # class, arguments, error, what is said to be allowed
    *(
        (kf.FanwiseVarianceScaling, {"scale": value}, ValueError, "finite number")
        for value in (0, -1.0, math.nan, math.inf, -math.inf, 10**400)
    ),
    *(
        (kf.FanwiseVarianceScaling, {"scale": value}, TypeError, "finite number")
        for value in ("1", None, True, [1.0], 1j)
    ),
    *(
        (cls, {"stddev": value}, ValueError, "finite number")
        for value in (0, -0.02, math.nan, math.inf)
        for cls in (kf.FanwiseNormal, kf.FanwiseGammaNoise)
    ),
    (kf.FanwiseNormal, {"stddev": "0.02"}, TypeError, "finite number"),
    (kf.FanwiseNormal, {"mean": math.nan}, ValueError, "finite number"),
    (kf.FanwiseGammaNoise, {"mean": None}, TypeError, "finite number"),
    (kf.FanwiseHeNormal, {"negative_slope": math.inf}, ValueError, "finite number"),
    (kf.FanwiseHeNormal, {"negative_slope": "0.2"}, TypeError, "finite number"),
    (kf.FanwiseHeUniform, {"negative_slope": 1e200}, ValueError, "below"),
    (kf.FanwiseVarianceScaling, {"mode": "fan"}, ValueError, "'fan_geo_avg'"),
    (kf.FanwiseVarianceScaling, {"mode": None}, TypeError, "'fan_geo_avg'"),
    (kf.FanwiseVarianceScaling, {"distribution": "gauss"}, ValueError, "'uniform'"),
    (kf.FanwiseVarianceScaling, {"distribution": 3}, TypeError, "'uniform'"),
    (kf.FanwiseHeNormal, {"sampler": "numpy"}, ValueError, "'portable', 'backend'"),
    (kf.FanwiseNormal, {"sampler": None}, TypeError, "'portable', 'backend'"),
    (kf.FanwiseHeNormal, {"fans": "layers"}, ValueError, "'layer', 'shape' or a pair"),
    (kf.FanwiseHeNormal, {"fans": 3}, TypeError, "'layer', 'shape' or a pair"),
    (kf.FanwiseHeNormal, {"fans": (1, 2, 3)}, ValueError, "a pair"),
    (kf.FanwiseHeNormal, {"fans": (0, 2)}, ValueError, "numbers above 0"),
    (kf.FanwiseHeNormal, {"fans": (1, math.nan)}, ValueError, "numbers above 0"),
    (kf.FanwiseHeNormal, {"fans": (1, "2")}, TypeError, "numbers above 0"),
    (kf.FanwiseHeNormal, {"input_axes": [0]}, ValueError, "together with `input_axes`"),
    (kf.FanwiseHeNormal, {"output_axes": [0]}, ValueError, "together with `output_axes`"),
    (kf.FanwiseHeNormal, {"input_axes": 0, "output_axes": [1]}, TypeError, "list or tuple"),
    (
        kf.FanwiseHeNormal,
        {"input_axes": [0, 0], "output_axes": [1]},
        ValueError,
        "differ from each other",
    ),
    *(
        (
            kf.FanwiseHeNormal,
            {"seed": value},
            TypeError,
            "SeedGenerator or an integer from 0",
        )
        for value in (True, 1.0, "1", [1], np.float32(1), np.bool_(True))
    ),
    *(
        (
            kf.FanwiseNormal,
            {"seed": value},
            ValueError,
            "SeedGenerator or an integer from 0",
        )
        for value in (-1, 2**64, -(10**30), np.int32(-5))
    ),
    (kf.FanwiseHeNormal, {"seed": 2**32, "sampler": "backend"}, ValueError, "4294967295"),
]


@pytest.mark.parametrize(("cls", "arguments", "error", "allowed"), BAD_ARGUMENTS)
def test_bad_arguments(cls, arguments, error, allowed):
    with pytest.raises(error) as caught:
        cls(**arguments)
    message = str(caught.value)
    named = [
        name for name in (*arguments, "input_axes", "output_axes") if f"`{name}`" in message
    ]
    assert named
    assert "must be" in message
    assert allowed in message
    assert re.search(r"Received: \w+=.+$", message)


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ((2, None), TypeError),
        ((2, -1), ValueError),
        ((2, 1.5), TypeError),
        ((2, True), TypeError),
        ("23", TypeError),
        (5, TypeError),
        (None, TypeError),
        ((2, "3"), TypeError),
    ],
)
@pytest.mark.parametrize("sampler", ["portable", "backend"])
def test_bad_shapes(shape, error, sampler):
    for cls in (kf.FanwiseHeNormal, kf.FanwiseNormal):
        with pytest.raises(error, match=r"`shape` must be .*integers.* Received: shape="):
            cls(sampler=sampler)(shape)


@pytest.mark.parametrize(
    "dtype", ["int32", "complex64", "bool", "foo", np.int64, complex, 3, "float8_e4m3fn"]
)
@pytest.mark.parametrize("sampler", ["portable", "backend"])
def test_bad_dtypes(dtype, sampler):
    for cls in (kf.FanwiseHeNormal, kf.FanwiseNormal):
        with pytest.raises(
            ValueError, match=r"`dtype` must be one of .*float16.* Received: "
        ):
            cls(sampler=sampler)((2, 3), dtype=dtype)


BEYOND_THE_TYPE = [
    # class, arguments, dtype, what is said of it
    (kf.FanwiseNormal, {"stddev": 1e39}, "float32", r"deviation 1e\+39; .*3.4e\+38"),
    (kf.FanwiseNormal, {"stddev": 1e5}, "float16", r"deviation 1e\+05; .*6.55e\+04"),
    (kf.FanwiseNormal, {"mean": 7e4}, "float16", r"mean 7e\+04 and .*deviation 0.02; "),
    (kf.FanwiseNormal, {"mean": -3.4e38, "stddev": 1e37}, "bfloat16", r"mean -3.4e\+38"),
    (kf.FanwiseNormal, {"stddev": 3e307}, "float64", r"deviation 3e\+307"),
    (kf.FanwiseVarianceScaling, {"scale": 1e80}, "float32", r"deviation 7.07e\+39"),
    (
        kf.FanwiseVarianceScaling,
        {"scale": 1e308, "distribution": "uniform", "fans": (1, 1)},
        "float64",
        "deviation inf",
    ),
]


@pytest.mark.parametrize(("cls", "arguments", "dtype", "said"), BEYOND_THE_TYPE)
@pytest.mark.parametrize("sampler", ["portable", "backend"])
def test_spreads_beyond_the_type(cls, arguments, dtype, said, sampler):
    """Drawn, there would be infinities among them."""
    initializer = cls(**arguments, sampler=sampler)
    message = rf"`dtype` must be a type that holds .*{said}.* Received: dtype='{dtype}'"
    with pytest.raises(ValueError, match=message):
        initializer((2, 2), dtype)
    layer = keras.layers.Dense(2, kernel_initializer=initializer, dtype=dtype, name="far")
    with pytest.raises(ValueError, match=r"far/kernel of shape \(2, 2\): `dtype` must be"):
        layer.build((None, 2))


@pytest.mark.parametrize(
    ("dtype", "stddev"),
    [("float16", 1e4), ("bfloat16", 5e37), ("float32", 5e37), ("float64", 1.9e307)],
)
def test_spreads_that_the_type_just_holds(dtype, stddev):
    if keras.backend.backend() == "jax" and dtype == "float64":
        with pytest.raises(ValueError, match="float32 ends at"):  # which JAX makes of it
            kf.FanwiseNormal(stddev=stddev)((2, 2), dtype)
        return
    values = kf.FanwiseNormal(stddev=stddev, seed=1)((1000, 1000), dtype)
    assert np.isfinite(np.asarray(keras.ops.convert_to_numpy(values), "float64")).all()


def test_spreads_below_the_type_are_drawn():
    """Denormal numbers and zeros are the nearest that there are."""
    values = kf.FanwiseNormal(stddev=1e-7, seed=1)((100, 100), "float16")
    assert 0 < np.abs(keras.ops.convert_to_numpy(values)).max() < 1e-6


def test_axes_that_do_not_fit_the_shape():
    initializer = kf.FanwiseHeNormal(input_axes=[0], output_axes=[3])
    with pytest.raises(ValueError, match=r"`output_axes` must be .*\(2, 3\).* Received: "):
        initializer((2, 3))


def test_a_name_close_to_a_real_one_is_named():
    with pytest.raises(ValueError, match="did you mean 'fan_out'"):
        kf.FanwiseVarianceScaling(mode="fan-out")
    with pytest.raises(ValueError, match="did you mean 'truncated_normal'"):
        kf.FanwiseVarianceScaling(distribution="truncated")
    # `keras.initializers.get` belongs to Keras: its error at least repeats the name.
    with pytest.raises(ValueError, match="fanwise_he_norml"):
        keras.initializers.get("fanwise_he_norml")


@pytest.mark.parametrize("shape", [(0,), (3, 0), [2, 0, 4]])
@pytest.mark.parametrize("sampler", ["portable", "backend"])
def test_empty_shapes_are_empty_tensors(shape, sampler):
    tensor = kf.FanwiseGlorotUniform(sampler=sampler)(shape)
    assert tuple(tensor.shape) == tuple(shape)


@needs("jax")  # which alone loses the state
def test_a_generator_in_a_traced_function():
    initializer = kf.FanwiseHeNormal(seed=keras.random.SeedGenerator(1))
    seeded = kf.FanwiseHeNormal(seed=1)
    expected = np.asarray(keras.ops.convert_to_numpy(seeded((2, 3))))
    import jax

    trace = jax.jit
    with pytest.raises(ValueError, match=r"`seed` must be .*traced.*sampler='backend'"):
        trace(lambda: initializer((2, 3)))()
    # The generator is as it was.
    assert np.array_equal(trace(lambda: seeded((2, 3)))(), expected)
    state = keras.ops.convert_to_numpy(initializer.seed.state.value)
    assert state.tolist() == [1, 0]
    backend = kf.FanwiseHeNormal(seed=1, sampler="backend")
    assert trace(lambda: backend((2, 3)))().shape == (2, 3)
