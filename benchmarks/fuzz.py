"""Runs the command line on generated arguments, names and files, and counts what came.

python benchmarks/fuzz.py                     # 10,000 examples, some minutes
python benchmarks/fuzz.py --examples 200 --seed 3
"""

import argparse
import faulthandler
import importlib
import sys
import warnings
from collections import Counter
from pathlib import Path

import keras
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

# The inputs are those of tests/test_cli_fuzz.py.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
# Models stay in memory until Keras is told to forget them.
_FORGET = 200
_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cli_inputs = importlib.import_module("support.cli_inputs")
    faulthandler.enable()  # a damaged file could end the process itself
    warnings.simplefilter("ignore")
    console = Console()
    files = cli_inputs.whole_files()
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("examples", total=arguments.examples)

        @seed(arguments.seed)
        @settings(
            max_examples=arguments.examples,
            deadline=None,
            database=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def run(data: st.DataObject) -> None:
            kind = data.draw(st.sampled_from(cli_inputs.KINDS))
            case = data.draw(cli_inputs.cases(files, kind))
            code, faults = cli_inputs.outcome(case)
            counts[kind, "inputs"] += 1
            counts[kind, "traceback" if code is None else f"exit {code}"] += 1
            counts[kind, "faults"] += bool(faults)
            if faults:
                failures.append(f"{case._replace(content=None)}\n" + "\n".join(faults))
            progress.advance(task)
            if progress.tasks[task].completed % _FORGET == 0:
                keras.backend.clear_session()

        run()

    results = ("inputs", "exit 0", "exit 1", "exit 2", "traceback", "faults")
    table = Table("kind", *results, box=None)
    for kind in cli_inputs.KINDS:
        table.add_row(kind, *(str(counts[kind, result]) for result in results))
    sums = [sum(counts[kind, result] for kind in cli_inputs.KINDS) for result in results]
    table.add_row("all", *map(str, sums))
    console.print(table)
    for failure in failures[:_SHOWN]:
        console.print(Text(ascii(failure).replace("\\n", "\n")))
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
