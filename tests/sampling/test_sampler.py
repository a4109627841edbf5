import hashlib
import itertools
import math
import multiprocessing
import threading

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_fanwise.initializers.base import DISTRIBUTIONS
from keras_fanwise.sampling import quantile
from keras_fanwise.sampling import sampler as sampling
from keras_fanwise.sampling.sampler import BLOCK, DTYPES, Stream

from support.processes import run_python
from support.statistics_checks import (
    KURTOSIS,
    check_distribution,
    check_moments,
    truncated_normal_cdf,
)

KEY = 0x0123456789ABCDEF0123456789ABCDEF
# Over two blocks, so that chunks and a ragged end are part of it.
GOLDEN_SHAPE = (2, 70_001)
GOLDEN = {
    ("truncated_normal", "float16"): "e7c2f7cd1d76e019",
    ("truncated_normal", "bfloat16"): "78bbe90095b3e948",
    ("truncated_normal", "float32"): "6a4b5fb852992603",
    ("truncated_normal", "float64"): "9fe2ff7f47420357",
    ("untruncated_normal", "float16"): "549387d15450a149",
    ("untruncated_normal", "bfloat16"): "ffdf2de7ec78350f",
    ("untruncated_normal", "float32"): "9896f4a63042f78e",
    ("untruncated_normal", "float64"): "60b9de9699ce9ae9",
    ("uniform", "float16"): "32467d4006ac6b51",
    ("uniform", "bfloat16"): "4bea496c49f9c3bf",
    ("uniform", "float32"): "6331ed635c8d2644",
    ("uniform", "float64"): "297a824f80a1b113",
}


def draw(key, *args, threads=None, **options):
    with pytest.MonkeyPatch.context() as patch:
        if threads is not None:
            patch.setenv("KERAS_FANWISE_THREADS", str(threads))
        return Stream(key).draw(*args, **options)


def sha(values):
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_bits_never_change(distribution, dtype, threads, monkeypatch):
    # A thread for every block, so that 16 threads are really started.
    monkeypatch.setattr(sampling, "_ELEMENTS_PER_START", 1)
    values = draw(KEY, distribution, GOLDEN_SHAPE, dtype, spread=0.1, threads=threads)
    assert values.shape == GOLDEN_SHAPE
    assert values.dtype == DTYPES[dtype]
    assert sha(values) == GOLDEN[distribution, dtype]


@given(st.data(), st.sampled_from(DISTRIBUTIONS), st.sampled_from(sorted(DTYPES)))
def test_a_slice_drawn_alone_is_the_slice_of_the_whole(data, distribution, dtype):
    size = data.draw(st.sampled_from([1, 7, 1000, BLOCK, BLOCK + 1, 2 * BLOCK + 33]))
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    whole = draw(KEY, distribution, (size,), dtype)
    part = draw(KEY, distribution, (size,), dtype, index=[slice(start, stop)])
    assert part.shape == (stop - start,)
    assert np.array_equal(whole[start:stop], part)


@st.composite
def parts(draw):
    """A shape, and a slice of each of its axes."""
    rank = draw(st.integers(0, 5))
    # Long enough in places for runs that are drawn apart, and for several chunks.
    sizes = st.sampled_from([1, 2, 3, 5, 8, 40, 300, 7000])
    shape = tuple(draw(sizes) for _ in range(rank))
    assume(math.prod(shape) <= 3_000_000)
    starts = [draw(st.integers(0, size)) for size in shape]
    stops = [
        draw(st.integers(start, size)) for start, size in zip(starts, shape, strict=True)
    ]
    return shape, tuple(map(slice, starts, stops))


@settings(max_examples=200)
@given(parts(), st.sampled_from(DISTRIBUTIONS), st.sampled_from(sorted(DTYPES)))
def test_a_part_drawn_alone_is_the_part_of_the_whole(part, distribution, dtype):
    shape, index = part
    whole = draw(KEY, distribution, shape, dtype)
    alone = draw(KEY, distribution, shape, dtype, index=index)
    assert alone.tobytes() == whole[index].tobytes()
    assert alone.shape == whole[index].shape


@pytest.mark.parametrize("columns", [slice(0, 1), slice(5, 6), slice(1, 7), slice(90, 99)])
@pytest.mark.parametrize("width", [8, 100, 2999, 3000, 3001, 3002, 9000])
def test_columns(columns, width, monkeypatch):
    """Passing over the others, or beginning anew behind them; by several threads."""
    monkeypatch.setattr(sampling, "_ELEMENTS_PER_START", 1)
    shape = (2 * 10**6 // width, width)
    whole = draw(KEY, "uniform", shape)
    alone = draw(KEY, "uniform", shape, index=(slice(3, None), columns), threads=3)
    assert np.array_equal(alone, whole[3:, columns])


def test_slices_far_into_a_stream():
    # Where the counter no longer fits into 32 bits.
    start = 2**36 + 5
    part = draw(KEY, "uniform", (2**37,), index=[slice(start, start + 100)])
    again = draw(KEY, "uniform", (2**37,), index=[slice(start - 3, start + 50)])
    assert np.array_equal(part[:50], again[3:])


@given(st.integers(1, 40), st.integers(1, 20), st.integers(-3, 3))
def test_shares_are_whole_blocks_that_cover_everything(blocks, threads, ragged):
    size = blocks * BLOCK + ragged
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_FANWISE_THREADS", str(threads))
        count = sampling._thread_count(size)
    shares = sampling._shares(size, count)
    assert 1 <= len(shares) == count <= threads
    assert shares[0][0] == 0
    assert shares[-1][1] == size
    for (_, stop), (start, _) in itertools.pairwise(shares):
        assert stop == start
        assert start % BLOCK == 0


def test_a_small_draw_starts_no_thread(monkeypatch):
    def fail(*_args, **_kwargs):
        raise AssertionError("started a thread")

    monkeypatch.setattr(sampling, "ThreadPoolExecutor", fail)
    draw(KEY, "truncated_normal", (256, 256), threads=16)
    with pytest.raises(AssertionError, match="started"):
        draw(KEY, "truncated_normal", (1024, 1024), threads=16)


def test_no_thread_is_left_running():
    before = threading.active_count()
    draw(KEY, "truncated_normal", (1024, 1024), threads=4)
    assert threading.active_count() == before


def parent(distribution, std):
    """The spread for which a distribution has the standard deviation `std`."""
    return {
        "uniform": math.sqrt(3) * std,
        "truncated_normal": std / stats.truncnorm.std(-2, 2),
        "untruncated_normal": std,
    }[distribution]


CDFS = {
    "uniform": lambda std: stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std).cdf,
    "truncated_normal": truncated_normal_cdf,
    "untruncated_normal": lambda std: stats.norm(0, std).cdf,
}


@pytest.mark.few(9)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_distribution_and_moments(distribution, dtype, seed):
    std = 0.3
    values = draw(
        KEY + seed, distribution, (300_000,), dtype, spread=parent(distribution, std)
    )
    check_moments(values, 0.0, std, KURTOSIS[distribution])
    check_distribution(values, CDFS[distribution](std))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_spread_off_by_one_percent_is_caught(distribution):
    values = draw(KEY, distribution, (300_000,), spread=1.01 * parent(distribution, 0.3))
    with pytest.raises(AssertionError):
        check_moments(values, 0.0, 0.3, KURTOSIS[distribution])


def test_the_wrong_distribution_is_caught():
    values = draw(KEY, "uniform", (300_000,), spread=parent("uniform", 0.3))
    with pytest.raises(AssertionError):
        check_distribution(values, CDFS["truncated_normal"](0.3))


def test_the_mean_of_a_normal():
    values = draw(KEY, "untruncated_normal", (300_000,), mean=1.0, spread=0.02)
    check_moments(values, 1.0, 0.02, 3.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("distribution", "spreads"), [("uniform", 1), ("truncated_normal", 2)]
)
@given(st.floats(1e-3, 1e3))
@settings(max_examples=25)
def test_never_outside_the_bounds(distribution, spreads, dtype, spread):
    values = draw(KEY, distribution, (20_000,), dtype, spread=spread)
    assert np.all(np.abs(values.astype(np.float64)) <= spreads * spread)


def test_the_extreme_words_stay_within_the_bounds(monkeypatch):

    class Extremes:
        def __init__(self, key, counter):
            pass

        def random_raw(self, count):
            return np.full(count, 0x7FFFFFFF_80000000, np.uint64)

    monkeypatch.setattr(np.random, "Philox", Extremes)
    for dtype in DTYPES:
        for spread in (0.1, 0.3, 1.0, 0.7):
            values = draw(KEY, "truncated_normal", (8,), dtype, spread=spread).astype(float)
            assert np.all(np.abs(values) <= 2 * spread)
            # float64 takes 64-bit words, of which this is close to the largest.
            assert np.max(np.abs(values)) > 1.98 * spread
            values = draw(KEY, "uniform", (8,), dtype, spread=spread).astype(float)
            assert np.all(np.abs(values) <= spread)


def test_uniforms_are_odd_multiples_of_half_an_ulp():
    centred = draw(KEY, "uniform", (100_000,), spread=0.5).astype(np.float64)
    multiples = centred * 2.0**25
    assert np.array_equal(multiples, np.round(multiples))
    assert np.all(multiples % 2 == 1)


@pytest.mark.parametrize(("dtype", "distinct"), [("bfloat16", 1000), ("float16", 3000)])
def test_low_precision_draws_keep_many_values(dtype, distinct):
    values = draw(KEY, "truncated_normal", (10_000,), dtype, spread=0.05)
    assert np.unique(values.astype(np.float32)).size >= distinct


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_low_precision_draws_are_the_float32_draw_rounded(distribution, dtype):
    # A power of two, so that no bound needs rounding down.
    single = draw(KEY, distribution, (50_000,), "float32", spread=0.25)
    low = draw(KEY, distribution, (50_000,), dtype, spread=0.25)
    assert np.array_equal(low, single.astype(DTYPES[dtype]))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4, 5, 6)])
def test_every_rank_and_empty_shapes(shape):
    for dtype in DTYPES:
        values = draw(KEY, "truncated_normal", shape, dtype)
        assert values.shape == shape
        assert np.array_equal(
            values.ravel(), draw(KEY, "truncated_normal", (values.size,), dtype)
        )


def test_elements_of_a_stream_do_not_repeat():
    values = draw(KEY, "uniform", (3 * BLOCK,), "float64")
    assert np.unique(values).size == values.size


@pytest.mark.parametrize("lag", [1, 2, 8, BLOCK])
def test_elements_of_a_stream_are_uncorrelated(lag):
    values = draw(KEY, "untruncated_normal", (4 * BLOCK,)).astype(np.float64)
    pairs = values[:-lag] * values[lag:]
    assert abs(pairs.mean()) < 5 / math.sqrt(pairs.size)


def test_neighbouring_keys_are_uncorrelated():
    one, two = (
        draw(KEY + i, "untruncated_normal", (BLOCK,)).astype(float) for i in range(2)
    )
    assert abs(np.mean(one * two)) < 5 / math.sqrt(BLOCK)


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_begins_where_backends_take_it_without_a_copy(dtype):
    for size in (1, 3, 1000):
        assert draw(KEY, "uniform", (size,), dtype).ctypes.data % 64 == 0


def test_a_failing_thread_fails_the_draw(monkeypatch):
    def broken(*_args):
        raise RuntimeError("planted")

    monkeypatch.setitem(sampling._NORMALS, "truncated_normal", broken)
    with pytest.raises(RuntimeError, match="planted"):
        draw(KEY, "truncated_normal", (1024, 1024), threads=2)


def test_the_golden_hashes_catch_a_changed_coefficient(monkeypatch):
    (first, *rest), denominator = quantile.REST
    changed = ((np.nextafter(first, np.float32(1)), *rest), denominator)
    monkeypatch.setattr(quantile, "REST", changed)
    values = draw(KEY, "truncated_normal", GOLDEN_SHAPE, spread=0.1)
    assert sha(values) != GOLDEN["truncated_normal", "float32"]


def test_where_no_thread_can_be_started(monkeypatch):
    """After the first, as where the system allows no more."""
    whole = draw(KEY, "truncated_normal", (2**20,), threads=1)
    real = threading.Thread.start
    begun = []

    def start(thread):
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert np.array_equal(draw(KEY, "truncated_normal", (2**20,), threads=4), whole)
    assert np.array_equal(draw(KEY, "truncated_normal", (2**20,), threads=4), whole)
    assert not any(thread.is_alive() for thread in begun)


AT_EXIT = """
import atexit
from keras_fanwise.sampling.sampler import Stream
atexit.register(lambda: print(float(Stream(7).draw("uniform", (2_000_000,))[-1])))
"""


@pytest.mark.slow
def test_when_the_interpreter_ends(monkeypatch):
    monkeypatch.setenv("KERAS_FANWISE_THREADS", "2")
    last = draw(7, "uniform", (2_000_000,))[-1]
    assert float(run_python(AT_EXIT)) == last


def digest(_number):
    """What a process of its own draws, with threads."""
    values = Stream(KEY).draw("truncated_normal", (2**20,))
    return sha(values), threading.active_count()


START_METHODS = [
    # Where they are not forked, each imports a backend.
    pytest.param(method, marks=[pytest.mark.slow] if method != "fork" else [])
    for method in multiprocessing.get_all_start_methods()
]


@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")
def test_workers_of_multiprocessing_draw_the_same(method, monkeypatch):
    """Also those that are forked while another thread draws."""
    monkeypatch.setenv("KERAS_FANWISE_THREADS", "2")
    stop = threading.Event()

    def keep_drawing():
        while not stop.is_set():
            Stream(KEY).draw("uniform", (2**19,))

    thread = threading.Thread(target=keep_drawing)
    thread.start()
    try:
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.map_async(digest, range(4)).get(timeout=60)
    finally:
        stop.set()
        thread.join()
    assert {sha for sha, _ in found} == {digest(0)[0]}


def test_the_setting_of_threads(monkeypatch):
    started = []

    class Counted(sampling.ThreadPoolExecutor):
        def __init__(self, threads, **kwargs):
            started.append(threads)
            super().__init__(threads, **kwargs)

    monkeypatch.setattr(sampling, "ThreadPoolExecutor", Counted)
    found = []
    for text in ("1", "2", "3", "16"):
        monkeypatch.setenv("KERAS_FANWISE_THREADS", text)
        found.append(sha(draw(KEY, "truncated_normal", (2**20,))))
    assert len(set(found)) == 1
    # Beside the thread that draws; for 2**20 elements four are the most.
    assert started == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1.5", " 2", "²", "1e3"])
def test_bad_settings_of_threads(text, monkeypatch):
    monkeypatch.setenv("KERAS_FANWISE_THREADS", text)
    message = "`KERAS_FANWISE_THREADS` must be an integer of 1 or more. Received: "
    with pytest.raises(ValueError, match=message):
        draw(KEY, "uniform", (2, 2))
