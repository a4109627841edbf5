"""How often `audit` and `signal` are right: on good starts, and on one planted fault each.

    KERAS_BACKEND=jax python benchmarks/diagnoses.py

Random architectures of many kinds, with starts that fit them, have no errors; and each is
given every fault in turn, in a random weight, which is to be named. The generator and the
faults are those of the tests. The exit code is 1 if more than 1% of the good starts have an
error of `audit` or a finding of `signal`, or if fewer than 99% of the faults are found.
"""

import argparse
import importlib
import os
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path

# TensorFlow reads it when Keras imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from rich.text import Text
from scipy import stats

import keras_fanwise

from harness import console, print_machine, progress, results_table

# The generator is that of tests/diagnostics/test_diagnoses.py.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
architectures = importlib.import_module("support.architectures")
planted_faults = importlib.import_module("support.planted_faults")

_SHOWN = 40
_FALSE_ALARMS, _FOUND = 0.01, 0.99
_ALL = "all"
_OUTCOMES = ("error", "warning", "note", "signal", "")
_STARTS = ("audit", "audit warnings", "signal")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="architectures of each kind")
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    counts, wrong = measured(seeds)
    print_machine()
    console.print(f"On {keras.backend.backend()}, {len(seeds)} architectures of each kind:")
    return print_all(counts, wrong, len(seeds))


def measured(seeds: Collection[int]) -> tuple[Counter[tuple[str, str]], list[str]]:
    """How often what came of architectures of each kind, and what was wrong."""
    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    with progress() as bar:
        task = bar.add_task("models", total=len(seeds) * len(architectures.KINDS))
        for seed in seeds:
            for kind in architectures.KINDS:
                model = architectures.build(kind, seed)
                for name, found in _starts(model):
                    counts[kind, name] += bool(found)
                    counts[_ALL, name] += bool(found)
                    wrong += [f"{kind} {seed}: {name}: {finding}" for finding in found]
                # What is trained is not judged as a start.
                faults = () if kind == "trained" else planted_faults.FAULTS
                for fault in faults:
                    outcome = planted_faults.outcome(model, fault, seed)
                    if outcome is None:
                        continue
                    for row in (kind, fault, _ALL):
                        counts[row, "planted"] += 1
                        counts[row, f"found {outcome}"] += 1
                    if not outcome:
                        wrong.append(f"{kind} {seed}: {fault}: not found, or not there")
                bar.advance(task)
            keras.backend.clear_session()
    return counts, wrong


def print_all(counts: Counter[tuple[str, str]], wrong: list[str], seeds: int) -> bool:
    """Prints the tables, and says whether they are not as they should be."""
    _print_starts(counts, architectures.KINDS, seeds)
    _print_faults(counts, "fault", planted_faults.FAULTS)
    _print_faults(counts, "architecture", architectures.KINDS)
    for line in wrong[:_SHOWN]:
        console.print(Text(line), soft_wrap=True)
    total = seeds * len(architectures.KINDS)
    alarms = max(counts[_ALL, "audit"], counts[_ALL, "signal"]) / total
    return alarms > _FALSE_ALARMS or 1 - _missed(counts) < _FOUND


def _starts(model: keras.Model) -> list[tuple[str, list[str]]]:
    report = keras_fanwise.audit(model)
    signal = keras_fanwise.signal(model)
    return [
        ("audit", [f"{f.path}: {f.numbers}" for f in report.errors]),
        ("audit warnings", [f"{f.path}: {f.numbers}" for f in report.warnings]),
        (
            "signal",
            [f"{f.verdict.label} at {f.path}: {f.numbers}" for f in signal.findings],
        ),
    ]


def _missed(counts: Counter[tuple[str, str]]) -> float:
    return counts[_ALL, "found "] / max(1, counts[_ALL, "planted"])


def _print_starts(
    counts: Counter[tuple[str, str]], kinds: Collection[str], number: int
) -> None:
    headers = ("models", "audit: errors", "warnings", "signal: findings")
    table = results_table("Good starts with", ("architecture",), headers)
    for kind in kinds:
        cells = (str(counts[kind, name]) for name in _STARTS)
        table.add_row(kind, str(number), *cells)
    total = number * len(kinds)
    cells = (_share(counts[_ALL, name], total) for name in _STARTS)
    table.add_row(_ALL, str(total), *cells)
    console.print(table)


def _print_faults(counts: Counter[tuple[str, str]], of: str, rows: Collection[str]) -> None:
    headers = ("planted", "error", "warning", "note", "by signal", "missed", "found")
    table = results_table("Planted faults, found as", (of,), headers)
    for row in (*rows, _ALL):
        planted = counts[row, "planted"]
        found = [counts[row, f"found {outcome}"] for outcome in _OUTCOMES]
        cells = _share(planted - found[-1], planted)
        table.add_row(row, str(planted), *map(str, found), cells)
    console.print(table)


def _share(count: int, total: int) -> str:
    """With the exact interval of 95% (Clopper and Pearson 1934)."""
    if not total:
        return ""
    interval = stats.binomtest(count, total).proportion_ci(0.95)
    return f"{count / total:.2%} ({interval.low:.1%}-{interval.high:.1%})"


if __name__ == "__main__":
    sys.exit(main())
