"""`retrofit`: what is replaced inside the block, what is left alone, and for whom."""

import asyncio
import contextlib
import threading
import time

import keras
import keras.src.initializers
import numpy as np
import pytest

import keras_fanwise as kf
from keras_fanwise.seam.record import recorded

from support.models import values_of
from support.processes import run_python
from support.retrofit_checks import (
    FORMS,
    GETS,
    RECIPES,
    TAILS,
    TheirHeNormal,
    built_weight,
    class_name,
    is_retrofitted,
    kernel_initializer_of,
    largest,
    ones,
    serialized,
)

layers = keras.layers
pytestmark = pytest.mark.usefixtures("nothing_left_behind")


# What is replaced


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", RECIPES)
def test_all_seven_by_all_their_names(name, form):
    identifier = FORMS[form](name)
    with kf.retrofit():
        found = kernel_initializer_of(identifier)
        given = recorded(built_weight((2, 2), identifier))
    assert class_name(found) == class_name(given) == f"Fanwise{name}"
    assert (found.scale, found.mode, found.distribution) == RECIPES[name]
    assert found.get_config()["fans"] == "layer"
    seed = 3 if "config" in form else None
    assert found.get_config()["seed"] == given.get_config()["seed"] == seed
    assert class_name(kernel_initializer_of(identifier)) == name


@pytest.mark.parametrize("name", RECIPES)
def test_the_draws_have_the_spread_and_the_tail_of_the_built_in(name):
    built_in = getattr(keras.initializers, name)(seed=1)
    with kf.retrofit():
        ours = kernel_initializer_of(built_in)
    scale, mode, distribution = RECIPES[name]
    # A weight of no layer: the fans are those of the shape on both sides.
    fan = {"fan_in": 100, "fan_avg": 250}[mode]
    low, high = TAILS[distribution]
    for initializer in (built_in, ours):
        values = np.array(keras.ops.convert_to_numpy(initializer((100, 400))))
        assert np.std(values) == pytest.approx(np.sqrt(scale / fan), rel=0.02)
        assert low < np.abs(values).max() / np.std(values) < high


@pytest.mark.parametrize("scale", [0.3, 2])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", TAILS)
def test_variance_scaling_keeps_its_arguments(scale, mode, distribution):
    built_in = keras.initializers.VarianceScaling(scale, mode, distribution, seed=4)
    for identifier in (built_in, serialized(built_in)):
        with kf.retrofit():
            config = kernel_initializer_of(identifier).get_config()
        for name in ("scale", "mode", "distribution", "seed"):
            assert config[name] == built_in.get_config()[name]


def test_axes_are_kept():
    try:
        built_in = keras.initializers.HeNormal(input_axes=[0], output_axes=[2, 3])
    except TypeError:
        pytest.skip("this Keras has no axes for fans")
    with kf.retrofit():
        config = kernel_initializer_of(built_in).get_config()
    assert (config["input_axes"], config["output_axes"]) == ([0], [2, 3])


def test_seeds():
    generator = keras.random.SeedGenerator(5)
    with kf.retrofit():
        seeded, unseeded, shared = (
            kernel_initializer_of(keras.initializers.HeNormal(seed=seed))
            for seed in (5, None, generator)
        )
    assert seeded.seed == seeded.get_config()["seed"] == 5
    assert unseeded.get_config()["seed"] is None
    assert shared.seed is generator
    state = values_of(generator.state)
    shared((2, 2))
    assert not np.array_equal(values_of(generator.state), state)


def test_a_seed_gives_the_draws_of_ours():
    with kf.retrofit():
        retrofitted = layers.Dense(
            4, kernel_initializer=keras.initializers.HeNormal(seed=5)
        )
    ours = layers.Dense(4, kernel_initializer=kf.FanwiseHeNormal(seed=5))
    for layer in (retrofitted, ours):
        layer.build((None, 3))
    assert np.array_equal(values_of(retrofitted.kernel), values_of(ours.kernel))


def test_the_fans_are_those_of_the_layer():
    def limit():
        layer = layers.DepthwiseConv2D(3, depthwise_initializer="lecun_uniform")
        layer.build((None, 8, 8, 512))
        return largest(layer.kernel)

    with kf.retrofit():
        inside = limit()
    assert 0.99 * np.sqrt(3 / 9) < inside <= np.sqrt(3 / 9)
    assert limit() <= np.sqrt(3 / (9 * 512))


# What is left alone


@pytest.mark.parametrize(
    "initializer",
    [
        keras.initializers.RandomNormal(seed=1),
        keras.initializers.TruncatedNormal(seed=1),
        keras.initializers.RandomUniform(seed=1),
        keras.initializers.Orthogonal(seed=1),
        keras.initializers.Zeros(),
        TheirHeNormal(seed=1),
        ones,
        kf.FanwiseHeNormal(seed=1),
        kf.FanwiseVarianceScaling(seed=1, fans="shape"),
        kf.FanwiseNormal(seed=1),
    ],
    ids=class_name,
)
def test_other_initializers_are_left_alone(initializer):
    with kf.retrofit():
        inside = layers.Dense(3, kernel_initializer=initializer)
        inside.build((None, 4))
        weight = built_weight((4, 3), initializer, name="kernel")
    assert inside.kernel_initializer is initializer
    assert recorded(inside.kernel) is initializer
    assert recorded(weight) is initializer
    outside = layers.Dense(3, kernel_initializer=initializer)
    outside.build((None, 4))
    assert np.array_equal(values_of(inside.kernel), values_of(outside.kernel))


@pytest.mark.parametrize(
    ("identifier", "name"),
    [
        ("random_normal", "RandomNormal"),
        ("orthogonal", "Orthogonal"),
        ("zeros", "Zeros"),
        ("Ones", "Ones"),
        ({"class_name": "TruncatedNormal", "config": {}}, "TruncatedNormal"),
        (keras.initializers.RandomUniform, "RandomUniform"),
        (TheirHeNormal, "TheirHeNormal"),
        ("fanwise_he_uniform", "FanwiseHeUniform"),
        (kf.FanwiseNormal, "FanwiseNormal"),
    ],
)
def test_other_names_are_left_alone(identifier, name):
    with kf.retrofit():
        assert class_name(keras.initializers.get(identifier)) == name
        assert class_name(kernel_initializer_of(identifier)) == name


def test_no_initializer_and_what_is_none():
    with kf.retrofit():
        assert keras.initializers.get(None) is None
        with pytest.raises(ValueError, match="he_nromal"):
            keras.initializers.get("he_nromal")


def test_other_layers_draw_the_same_bits_inside():
    def weights():
        keras.utils.set_random_seed(5)
        model = keras.Sequential(
            [
                keras.Input((3,), dtype="int32"),
                layers.Embedding(9, 4),
                layers.LSTM(4, kernel_initializer="random_normal"),
                layers.Dense(2, kernel_initializer=TheirHeNormal),
            ]
        )
        return model.get_weights()

    with kf.retrofit():
        inside = weights()
    assert all(map(np.array_equal, inside, weights()))


# The block


def test_nested_blocks():
    assert not is_retrofitted()
    with kf.retrofit():
        assert is_retrofitted()
        with kf.retrofit():
            assert is_retrofitted()
        assert is_retrofitted()
    assert not is_retrofitted()


def test_a_block_that_raises():
    with pytest.raises(KeyError, match="theirs"), kf.retrofit():
        raise KeyError("theirs")
    assert not is_retrofitted()
    with kf.retrofit():
        with pytest.raises(KeyError, match="theirs"), kf.retrofit():
            raise KeyError("theirs")
        assert is_retrofitted()
    assert not is_retrofitted()


def test_a_decorated_function():
    @kf.retrofit()
    def decorated(depth):
        return [is_retrofitted(), *(decorated(depth - 1) if depth else [])]

    for _ in range(2):
        assert decorated(2) == [True] * 3
        assert not is_retrofitted()


def test_a_block_in_a_generator():
    def built():
        with kf.retrofit():
            yield layers.Dense(1)
            yield layers.Dense(1)

    names = [class_name(layer.kernel_initializer) for layer in built()]
    assert names == ["FanwiseGlorotUniform"] * 2
    assert not is_retrofitted()
    unfinished = built()
    next(unfinished)
    unfinished.close()
    assert not is_retrofitted()


def test_what_is_kept_of_the_block_is_inert():
    with kf.retrofit():
        kept = keras.initializers.get
    assert class_name(kept("he_normal")) == "HeNormal"


# Threads


def run_threads(*targets):
    """Runs each in a thread of its own, and raises what they raise."""
    errors = []

    def caught(target):
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caught, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_a_thread_outside_any_block_is_not_concerned():
    barrier = threading.Barrier(2, timeout=60)
    seen = {}

    def one():
        barrier.wait()  # 1: neither is inside
        with kf.retrofit():
            barrier.wait()  # 2
            seen["inside, first"] = is_retrofitted()
            barrier.wait()  # 3: the other has built, and enters
            barrier.wait()  # 4: both are inside
        seen["first left"] = is_retrofitted()
        barrier.wait()  # 5

    def other():
        barrier.wait()
        barrier.wait()
        # The replacement is in place, for the other thread.
        seen["replaced"] = keras.src.initializers.get is not GETS[keras.src.initializers]
        seen["outside"] = is_retrofitted()
        barrier.wait()
        with kf.retrofit():
            barrier.wait()
            barrier.wait()
            seen["inside, second"] = is_retrofitted()
        seen["second left"] = is_retrofitted()

    run_threads(one, other)
    assert seen == {
        "inside, first": True,
        "replaced": True,
        "outside": False,
        "first left": False,
        "inside, second": True,
        "second left": False,
    }


def test_a_thread_started_inside_is_in_no_block():
    seen = []
    with kf.retrofit():
        run_threads(lambda: seen.append(is_retrofitted()))
    assert seen == [False]


def pause_at_each_line(frame, event, argument):
    """A trace function: other threads come in between any two lines of `retrofit.py`."""
    if not frame.f_code.co_filename.endswith("retrofit.py"):
        return None
    time.sleep(1e-4)
    return pause_at_each_line


def test_many_threads_that_enter_and_leave():
    def enter_and_leave():
        for turn in range(10):
            with kf.retrofit():
                found = keras.initializers.get("he_normal")
                assert class_name(found) == "FanwiseHeNormal"
                if turn % 3 == 0:
                    with kf.retrofit():
                        pass
            assert class_name(keras.initializers.get("he_normal")) == "HeNormal"

    before = threading.gettrace()
    threading.settrace(pause_at_each_line)
    try:
        run_threads(*[enter_and_leave] * 4)
    finally:
        threading.settrace(before)
    # And the fixture looks at what is left.


def test_blocks_that_do_not_close_in_the_reverse_order():
    def block():
        with kf.retrofit():
            yield

    first, second = block(), block()
    next(first)
    next(second)
    first.close()
    assert is_retrofitted()
    second.close()
    assert not is_retrofitted()


def test_a_block_that_another_thread_closes():
    block = contextlib.ExitStack()
    seen = []

    def close():
        block.close()
        seen.append(is_retrofitted())
        with kf.retrofit():
            seen.append(is_retrofitted())
        seen.append(is_retrofitted())

    block.enter_context(kf.retrofit())
    assert is_retrofitted()
    run_threads(close)
    assert seen == [False, True, False]
    assert not is_retrofitted()


def test_a_task_that_outlives_the_block_is_outside():
    async def seen_later(closed):
        inside = is_retrofitted()
        await closed.wait()
        return inside, is_retrofitted()

    async def seen():
        closed = asyncio.Event()
        with kf.retrofit():
            task = asyncio.create_task(seen_later(closed))
            await asyncio.sleep(0)
        with contextlib.ExitStack() as other:
            thread = threading.Thread(target=lambda: other.enter_context(kf.retrofit()))
            thread.start()  # so that `get` is still replaced
            thread.join()
            closed.set()
            return await task

    assert asyncio.run(seen()) == (True, False)


def test_a_decorated_coroutine_function():
    @kf.retrofit()
    async def build():
        before = is_retrofitted()
        await asyncio.sleep(0)
        return before, is_retrofitted()

    async def beside():
        return is_retrofitted()

    async def both():
        return await asyncio.gather(build(), beside(), build())

    assert asyncio.run(both()) == [(True, True), False, (True, True)]


def test_a_generator_cannot_be_decorated():
    def generator():
        yield

    async def asynchronous():
        yield

    for function in (generator, asynchronous):
        with pytest.raises(TypeError, match=r"not a generator.*Received: function="):
            kf.retrofit()(function)


@pytest.mark.slow
def test_a_get_that_was_imported_by_name():
    """Before Keras 3.9 such an import makes another module of `keras.initializers`."""
    code = """
import keras, keras_fanwise as kf
from keras.initializers import HeNormal
with kf.retrofit():
    print(type(keras.initializers.get("he_normal")).__name__)
print(type(keras.initializers.get("he_normal")).__name__)
"""
    assert run_python(code).split()[-2:] == ["FanwiseHeNormal", "HeNormal"]


def test_orthogonal_is_left_alone_unless_it_is_asked_for():
    with kf.retrofit():
        assert class_name(layers.LSTM(2).cell.recurrent_initializer) == "Orthogonal"
    given = keras.initializers.Orthogonal(gain=0.5, seed=3)
    with kf.retrofit(orthogonal=True):
        cell = layers.LSTM(2).cell
        assert class_name(cell.recurrent_initializer) == "FanwiseOrthogonal"
        assert class_name(cell.kernel_initializer) == "FanwiseGlorotUniform"
        ours = layers.Dense(2, kernel_initializer=given).kernel_initializer
        assert ours.get_config() == kf.FanwiseOrthogonal(0.5, seed=3).get_config()
        with kf.retrofit():
            assert (
                class_name(layers.GRU(2).cell.recurrent_initializer) == "FanwiseOrthogonal"
            )
        # Of a gain that ours does not take.
        other = keras.initializers.Orthogonal(gain=-1.0)
        assert layers.Dense(2, kernel_initializer=other).kernel_initializer is other
    assert class_name(layers.LSTM(2).cell.recurrent_initializer) == "Orthogonal"

    @kf.retrofit(orthogonal=True)
    def build():
        return layers.LSTM(2, dtype="bfloat16").cell.recurrent_initializer

    assert class_name(build()) == "FanwiseOrthogonal"
    with pytest.raises(TypeError, match=r"`orthogonal` must be True or False\. Received"):
        kf.retrofit(orthogonal=1)
