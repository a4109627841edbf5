"""The command line on generated arguments, names and files: never a traceback.

As many as one likes: see test_fuzz.py.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import cli_inputs
from support.processes import fuzz_examples

# Of Keras, when it saves and loads what it does not like.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def files():
    pytest.importorskip("matplotlib").use("Agg")
    return cli_inputs.whole_files()


@pytest.mark.parametrize("kind", cli_inputs.KINDS)
@settings(max_examples=fuzz_examples(2), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_input_ends_in_a_traceback(files, kind, data):
    faults = cli_inputs.outcome(data.draw(cli_inputs.cases(files, kind))).faults
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("kind", "codes"),
    [("good", {0}), ("zeros", {0, 1}), ("hostile", {2}), ("missing", {2})],
)
def test_the_inputs_are_what_they_are_called(files, suffix, kind, codes):
    """A fuzz test of files that are all refused for one reason would find nothing."""
    content = files[suffix].get(kind)
    for command in ("fans", "audit", "signal"):
        name = f"model{suffix}"
        case = cli_inputs.Case(kind, content, name, [command, name], [], "utf-8")
        code, faults = cli_inputs.outcome(case)
        assert code in codes
        assert not faults
