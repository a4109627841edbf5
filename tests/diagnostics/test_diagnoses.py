"""`audit` and `signal` on random architectures: quiet on good starts, right about faults.

A sample of what `benchmarks/diagnoses.py` measures on some 340 of them.
"""

import keras
import pytest

import keras_fanwise as kf

from support.architectures import KINDS, build
from support.models import arrays, equal
from support.planted_faults import FAULTS, outcome, planted
from support.processes import fewer_by_default

SEEDS = (0, 1)


@pytest.mark.slow
def test_good_starts_have_no_errors():
    """Two of each kind: with errors in 1% of the starts, three and more are 1 in 100."""
    errors = [
        (kind, seed, finding)
        for kind in KINDS
        for seed in SEEDS
        for finding in kf.audit(build(kind, seed)).errors
    ]
    assert len({found[:2] for found in errors}) <= 2, errors


@pytest.mark.parametrize("step", fewer_by_default(range(2), 0))
@pytest.mark.parametrize("number", range(len(FAULTS)), ids=FAULTS)
def test_a_planted_fault_is_found_and_the_weight_named(number, step):
    """In two kinds of architectures each."""
    fault = list(FAULTS)[number]
    kinds = [kind for kind in KINDS if kind != "trained"]  # which are not judged as a start
    kind = kinds[(3 * number + step) % len(kinds)]
    assert outcome(build(kind, number), fault, number) != "", kind


def test_a_fault_is_taken_out_again():
    model = build("plain", 0)
    before = arrays(model)
    for fault in FAULTS:
        with planted(model, fault, 0) as place:
            if place is not None:
                assert sum(not same for same in equal(before, arrays(model))) == 1
        assert all(equal(before, arrays(model)))
        assert not kf.audit(model).findings
    keras.backend.clear_session()
