"""Everything that the package does to a whole model, on models that others wrote.

    python -m pytest -m slow tests/real_models
    python -m pytest -m slow tests/real_models --every-size   # the large ones too

Not in the default run: it takes minutes. Backbones of keras-hub are among them if it is installed.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import keras
import numpy as np
import pytest

import keras_fanwise as kf

from support.models import arrays, equal, values_by_path
from support.real_models import (
    additions,
    batch_of,
    built,
    is_on,
    names,
    predictions_of_a_file,
    residual_additions,
)

pytestmark = [
    pytest.mark.slow,
    # Of models and layers that the package has no part in.
    pytest.mark.filterwarnings("ignore"),
]
# A plain network takes every recipe.
PLAIN = {"VGG16", "VGG19", "VGGBackbone"}
# Its attention counts positions, which a symbolic tensor does not tell.
UNOPENED = {"DebertaV3Backbone"}


def pytest_generate_tests(metafunc):
    every_size = metafunc.config.getoption("--every-size")
    here = [
        name
        for name in names(every_size=every_size)
        if is_on(name, keras.backend.backend())
    ]
    metafunc.parametrize("name", here, scope="module")


@pytest.fixture(scope="module")
def model(name):
    """Built once for all tests of it, of which the last ones give it other initializers."""
    keras.utils.set_random_seed(0)
    yield built(name)
    keras.backend.clear_session()


@pytest.fixture(scope="module")
def x(model):
    return batch_of(model)


@pytest.fixture(scope="session")
def other_process():
    """Knows nothing of what was built here."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as process:
        yield process


def same(model, before):
    return all(equal(arrays(model), before))


def test_what_reads_it_changes_nothing(model, x):
    before = arrays(model)
    paths = {weight.path for weight in model.weights}
    floats = {weight.path for weight in model.weights if "float" in weight.dtype}
    assert {row.path for row in kf.fans_table(model).rows} == paths
    assert {row.path for row in kf.audit(model).rows} == floats
    for batch in (None, x):
        rows = kf.signal(model, batch).rows
        assert any(row.std > 0 for row in rows)
        scaled = kf.calibrate(model, batch, dry_run=True).rows
        assert any(row.status == "scaled" for row in scaled)
    assert same(model, before)


def test_additions(model, name):
    unopened = [row for row in kf.residual_ends(model).rows if row.status == "unopened"]
    assert bool(unopened) == (name in UNOPENED)
    found = residual_additions(model)
    assert len(found) == (len(found) if additions(name) is None else additions(name))


def test_inside_retrofit_no_fans_are_counted_otherwise(model, name):
    with kf.retrofit():
        other = built(name)
    assert [w.shape for w in other.weights] == [w.shape for w in model.weights]
    assert not [found for found in kf.audit(other).findings if "counts" in found.cause]


@pytest.fixture
def nothing_dropped(model, monkeypatch):
    """Of four samples, what drops units or branches would leave another batch each time."""
    for layer in model._flatten_layers():
        if getattr(layer, "rate", 0):
            monkeypatch.setattr(layer, "rate", 0)


@pytest.mark.usefixtures("nothing_dropped")
def test_calibrated_every_layer_gives_what_was_asked(model, x):
    first = kf.calibrate(model, x)
    scaled = [row.path for row in first.rows if row.status == "scaled"]
    assert scaled
    assert any(abs(row.before - 1) > 0.05 for row in first.rows if row.before)
    second = kf.calibrate(model, x, dry_run=True)
    wrong = [
        (row.path, row.before)
        for row in second.rows
        if row.path in scaled and abs(row.before - 1) > 0.01
    ]
    assert not wrong


def test_another_seed_is_another_start(model):
    kf.reinitialize(model, seed=0)
    first = arrays(model)
    report = kf.reinitialize(model, seed=1)
    random = [row.path for row in report.rows if row.status == "set" and row.std_asked]
    same_again = {
        weight.path
        for weight, is_same in zip(model.weights, equal(arrays(model), first), strict=True)
        if is_same
    }
    assert random
    assert not same_again & set(random)
    kf.reinitialize(model, seed=0)
    assert same(model, first)
    # Keras-hub gives several layers of some models one seeded initializer.
    assert not [found for found in kf.audit(model).errors if "those of" in found.numbers]


def test_every_recipe(model, x, name):
    is_plain = not residual_additions(model)
    refused = {"fixup": is_plain, "deepnorm": is_plain, "critical": name not in PLAIN}
    # What no recipe draws: two of them give some models the same values.
    filled = [np.full_like(each, 7) for each in arrays(model)]
    for recipe in kf.recipes():
        model.set_weights(filled)
        if refused.get(recipe):
            with pytest.raises(ValueError, match=r"plain network|residual"):
                kf.initialize(model, recipe, seed=0)
            assert same(model, filled)
            continue
        report = kf.initialize(model, recipe, seed=0)
        drawn = {row.path for row in report.rows if row.status == "set"}
        assert drawn
        changed = {
            weight.path
            for weight, is_same in zip(
                model.weights, equal(arrays(model), filled), strict=True
            )
            if not is_same
        }
        assert changed == drawn
        assert all(np.isfinite(each).all() for each in arrays(model))
        if recipe == "he":
            # What has no name that a recipe knows, as in Mixtral's experts, is kept.
            assert not drawn & {found.path for found in kf.audit(model).errors}


def test_residual_starts(model):
    rows = residual_additions(model)
    if not rows:
        with pytest.raises(ValueError, match="residual"):
            kf.initialize(model, "he", seed=0, residual="zero")
        return
    kf.initialize(model, "he", seed=0)
    plain, weights = values_by_path(model), model.get_weights()
    last = {path for row in rows for path in row.last}
    for residual, factor in (("zero", 0.0), ("depth", len(rows) ** -0.5)):
        model.set_weights(weights)
        report = kf.initialize(model, "he", seed=0, residual=residual)
        # Of scales of their own "he" knows nothing.
        kept = {row.path for row in report.rows if row.status == "kept"}
        assert residual == "depth" or not last & kept
        for path, values in values_by_path(model).items():
            is_scaled = path in last - kept
            expected = factor * plain[path] if is_scaled else plain[path]
            np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_saved_and_loaded_in_another_process(model, x, name, tmp_path, other_process):
    kf.initialize(model, "he", seed=0)
    expected = keras.tree.flatten(model.predict(x, verbose=0))
    model.save(tmp_path / "model.keras")
    job = other_process.submit(predictions_of_a_file, tmp_path / "model.keras", x)
    assert all(map(close, job.result(), expected))
    kf.initialize(model, "he", seed=1)
    assert not all(map(close, keras.tree.flatten(model.predict(x, verbose=0)), expected))


def close(one, two):
    """But for the order in which the backend adds up."""
    return np.allclose(one, two, rtol=0, atol=1e-4 * np.abs(two).max())
