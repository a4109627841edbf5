"""The public functions on generated models and arguments: never a traceback.

    python -m pytest tests/test_fuzz.py tests/test_cli_fuzz.py --hypothesis-profile=fuzz

tries 500 of each kind, others each time; `--hypothesis-seed=3` repeats them.
"""

import random

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_fanwise as kf

from support import function_inputs
from support.processes import fuzz_examples

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind", function_inputs.KINDS)
@settings(max_examples=fuzz_examples(2), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_call_ends_in_a_traceback(kind, data):
    model = data.draw(function_inputs.models())
    outcome = function_inputs.outcome(model, data.draw(function_inputs.calls(kind)))
    assert not outcome.faults, "\n".join(outcome.faults)


def test_faults_are_seen():
    """One of each kind, planted in place of the call."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

    def planted(function, reads=True):
        call = function_inputs.Call("planted", function, reads, None)
        return " ".join(function_inputs.outcome(model, call).faults)

    def half_done(model):
        model.set_weights([np.ones(each.shape) for each in model.weights])
        raise kf.arguments.fail(ValueError, "recipe", "another", "he")

    def refused(model):
        raise ValueError("Received: \x1b")

    def of_python(model):
        raise ValueError("not enough values to unpack")

    assert not planted(kf.fans_table)
    assert "ZeroDivisionError" in planted(lambda model: 1 // 0)
    assert "not enough values" in planted(of_python)
    assert "control characters" in planted(refused)
    assert "left the model changed" in planted(half_done)
    assert "reading changed" in planted(lambda model: kf.reinitialize(model, seed=5))
    assert "took random numbers" in planted(lambda model: random.random())
    assert not planted(lambda model: random.random(), reads=False)
