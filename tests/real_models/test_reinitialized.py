"""`reinitialize` against a fresh build, weight by weight, on models that others wrote.

    python -m pytest -m slow tests/real_models/test_reinitialized.py

Not in the default run: it takes minutes. Backbones of keras-hub are among them if it is installed.
"""

import keras
import numpy as np
import pytest

import keras_fanwise as kf

from support.models import arrays, equal
from support.real_models import HAS_KERAS_HUB, MORE_BACKBONES, built, is_on, names

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
# One more size of families whose sizes differ in more than width and depth.
SIZES = ["DenseNet169", "EfficientNetB1", "EfficientNetV2B1", "MobileNetV3Large", "VGG19",
         "ResNet101"]  # fmt: skip
_ADAPTED = {"mean", "variance", "count"}
# What their layers adapt to data or assign when they are built, or an initializer computes.
KEPT = {
    "EfficientNetB0": _ADAPTED,
    "EfficientNetB1": _ADAPTED,
    "DINOV2Backbone": {"interpolated_position_embeddings"},
    "MoonshineBackbone": {"inv_freq"},
    "SigLIPBackbone": {"position_ids"},
    "SmolLM3Backbone": {"inv_freq"},
}


def every_name():
    more = [f"{name}Backbone" for name in MORE_BACKBONES if HAS_KERAS_HUB]
    backend = keras.backend.backend()
    return [name for name in [*names(large=True), *SIZES, *more] if is_on(name, backend)]


@pytest.mark.parametrize("name", every_name())
def test_what_is_random_is_new_and_the_rest_is_that_of_a_fresh_build(name):
    keras.utils.set_random_seed(0)
    model = built(name)
    fresh = arrays(model)
    random = [not same for same in equal(fresh, arrays(built(name)))]
    rows = kf.reinitialize(model, seed=0, dry_run=True).rows
    kept = [row.status == "kept" for row in rows]
    for weight, stays in zip(model.weights, kept, strict=True):
        if not stays and "float" in weight.dtype:
            weight.assign(weight.value + 1)  # as a training leaves it
    before = arrays(model)
    report = kf.reinitialize(model, seed=1)
    assert [row.status == "kept" for row in report.rows] == kept
    after = arrays(model)
    wrong = []
    each = zip(rows, fresh, before, after, random, kept, strict=True)
    for row, first, old, new, is_random, stays in each:
        if is_random and not stays:
            # Of a million numbers of 24 bits some are equal.
            good = max(np.mean(new == old), np.mean(new == first)) < 1e-4
            # As wide as in the fresh build, within five standard errors of both.
            good &= abs(new.std() / first.std() - 1) < 5 / np.sqrt(new.size)
        else:
            good = np.array_equal(new, first)
        if not good:
            wrong.append((row.path, row.status, row.initializer, new.std(), first.std()))
    assert not wrong
    names_kept = {row.path.rpartition("/")[2] for row in rows if row.status == "kept"}
    print(name, len(rows), "weights,", sum(kept), "kept", names_kept or "")
    assert names_kept == KEPT.get(name, set())
    del model
    keras.backend.clear_session()
