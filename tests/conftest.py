import gc
import importlib.util
import os
import random

import pytest
from hypothesis import settings

# One backend per process; the default test command runs on TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# The same examples in every run; the first call on a backend is slow.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=500)
settings.load_profile("repeatable")

# What tests share, and programs that they run in processes of their own.
collect_ignore = ["support"]


class _SameStart:
    """Each test, and each doctest, draws the same values, and has the same names of layers.

    The audit's rare false alarm would else come up in one of the hundreds of sound layers that
    they audit, once in some runs. And TensorFlow compiles the creation of a variable by its
    name and shape.
    """

    @pytest.hookimpl(tryfirst=True)  # before the fixtures
    def pytest_runtest_setup(self, item):
        from keras.src.utils.naming import reset_uids  # the backend must be set

        # Where Keras takes what has no seed. Its `set_random_seed` would do, and drop what
        # TensorFlow has compiled: it is for `keras.random`, and for `fit`, which shuffles.
        random.seed(0)
        reset_uids()


def _missing(backend):
    return importlib.util.find_spec(backend) is None


def pytest_runtest_setup(item):
    """The only tests that are skipped for want of something: what compares backends."""
    for marker in item.iter_markers("multi_backend"):
        missing = list(filter(_missing, marker.args or ("tensorflow", "jax", "torch")))
        if missing:
            pytest.skip(f"needs {' and '.join(missing)}, not installed")


@pytest.hookimpl(tryfirst=True)  # before `-m` leaves out what is slow
def pytest_collection_modifyitems(items):
    """Of a test with `few(n)`, n cases evenly spread are quick; the others are slow."""
    cases = {}
    for item in items:
        for marker in item.iter_markers("few"):
            cases.setdefault((item.function, marker.args[0]), []).append(item)
    for (_, count), found in cases.items():
        last, steps = len(found) - 1, max(count - 1, 1)
        quick = {round(last * step / steps) for step in range(count)}
        for place, item in enumerate(found):
            if place not in quick:
                item.add_marker("slow")


def pytest_configure(config):
    random.seed(0)  # for what is made where a test's module is imported
    # Registered, for a hook in this file would see the tests of this folder alone.
    config.pluginmanager.register(_SameStart())


def pytest_collection_finish():
    """What has been imported stays to the end: no collection of garbage looks at it again.

    There are many, for `skip_init` lets go of models at once; each took a quarter of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # building a model of Keras makes thousands of objects


def pytest_addoption(parser):
    parser.addoption(
        "--every-size",
        action="store_true",
        help="of the real models, all of keras.applications, and not the small ones alone",
    )


@pytest.fixture(scope="module", autouse=True)
def compiled_in_less_time(request):
    """On JAX most of the time goes into compiling what runs once: it is not optimized.

    But where the bits of compiled code are compared, it is compiled as users have it.
    """
    if os.environ["KERAS_BACKEND"] != "jax":
        return
    import jax

    for_bits = request.path.parent.name in ("sampling", "backends")
    if for_bits:
        jax.clear_caches()  # of what other modules have compiled
    jax.config.update("jax_disable_most_optimizations", not for_bits)


@pytest.fixture
def nothing_left_behind():
    """After the test Keras is as it was before any of them."""
    # Not above: it imports Keras, for which the backend must be set.
    from keras import layers

    from support.retrofit_checks import GETS, class_name

    yield
    for module, get in GETS.items():
        assert module.get is get
    assert class_name(layers.Dense(1).kernel_initializer) == "GlorotUniform"
