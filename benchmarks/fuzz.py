"""Runs the command line and the public functions on generated inputs, and counts.

    python benchmarks/fuzz.py                     # 10,000 examples, some 10 minutes
    python benchmarks/fuzz.py --examples 200 --seed 3 --of functions

The command line gets generated arguments, names and files; the functions get generated
models, types, initializers, rules, globs, seeds and thread settings.
"""

import argparse
import faulthandler
import importlib
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

# The inputs are those of tests/test_cli_fuzz.py and tests/test_fuzz.py.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
# Models stay in memory until Keras is told to forget them.
_FORGET = 200
_SHOWN = 20


Run = Callable[[st.DataObject], tuple[str, str, list[str]]]


def command_line() -> tuple[Sequence[str], Run]:
    """The kinds of its inputs, and what runs one of them: kind, result, faults."""
    inputs = importlib.import_module("support.cli_inputs")
    files = inputs.whole_files()

    def run(data: st.DataObject) -> tuple[str, str, list[str]]:
        kind = data.draw(st.sampled_from(inputs.KINDS))
        case = data.draw(inputs.cases(files, kind))
        code, faults = inputs.outcome(case)
        told = [f"{case._replace(content=None)}", *faults] if faults else []
        return kind, "traceback" if code is None else f"exit {code}", told

    return inputs.KINDS, run


def functions() -> tuple[Sequence[str], Run]:
    """Likewise of the public functions."""
    inputs = importlib.import_module("support.function_inputs")

    def run(data: st.DataObject) -> tuple[str, str, list[str]]:
        kind = data.draw(st.sampled_from(inputs.KINDS))
        model, call = data.draw(inputs.models()), data.draw(inputs.calls(kind))
        result, faults = inputs.outcome(model, call)
        told = [f"{call.text}, threads {call.threads}", *faults] if faults else []
        return kind, result, told

    return inputs.KINDS, run


SIDES = {
    "command": (command_line, ("exit 0", "exit 1", "exit 2")),
    "functions": (functions, ("returned", "refused")),
}


def fuzz(side: str, examples: int, first_seed: int, console: Console) -> bool:
    """Prints a table of what came; returns whether anything was wrong."""
    prepare, results = SIDES[side]
    kinds, example = prepare()
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(side, total=examples)

        @seed(first_seed)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def run(data: st.DataObject) -> None:
            kind, result, faults = example(data)
            counts[kind, "inputs"] += 1
            counts[kind, result] += 1
            counts[kind, "faults"] += bool(faults)
            if faults:
                failures.append("\n".join(faults))
            progress.advance(task)
            if progress.tasks[task].completed % _FORGET == 0:
                keras.backend.clear_session()

        run()

    columns = ("inputs", *results, "traceback", "faults")
    table = Table("kind", *columns, box=None)
    for kind in kinds:
        table.add_row(kind, *(str(counts[kind, column]) for column in columns))
    sums = [sum(counts[kind, column] for kind in kinds) for column in columns]
    table.add_row("all", *map(str, sums))
    console.print(table)
    for failure in failures[:_SHOWN]:
        console.print(Text(ascii(failure).replace("\\n", "\n")))
    return bool(failures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--of", choices=SIDES, help="only these; by default both")
    arguments = parser.parse_args()
    faulthandler.enable()  # a damaged file could end the process itself
    warnings.simplefilter("ignore")
    console = Console()
    sides = [arguments.of] if arguments.of else list(SIDES)
    each = arguments.examples // len(sides)
    faults = [fuzz(side, each, arguments.seed, console) for side in sides]
    return any(faults)


if __name__ == "__main__":
    sys.exit(main())
