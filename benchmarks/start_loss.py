"""How often the data, head and loss of a training are called wrong, and are.

    KERAS_BACKEND=torch python benchmarks/start_loss.py

Set-ups as people write them, sound ones and each fault, on data that comes with
scikit-learn (the extra `examples`), each with several random starts; nothing is trained. A
false alarm is an error or a warning about a sound set-up. A fault is found if there is an
error or a warning of its kind. The exit code is 1 if more than one in forty of the sound
set-ups has a false alarm with any of its starts, or fewer than 57 in 60 faults are found
with all of them. The set-ups are those of the tests, and some limits were set by them. It
takes a minute or two on one core.
"""

import argparse
import importlib
import os
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

# TensorFlow reads it when Keras imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from keras_fanwise.diagnostics.training import training_findings

from harness import console, print_machine, progress, results_table

# The set-ups are those of tests/diagnostics/test_training.py.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
set_ups = importlib.import_module("support.set_ups")

_FALSE_ALARMS, _FOUND = 1 / 40, 57 / 60
_SOUND = "sound"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="starts of each set-up")
    seeds = range(parser.parse_args().seeds)
    every = {(_SOUND, name): make for name, make in set_ups.SOUND.items()} | set_ups.FAULTY
    counts: Counter[tuple[str, str]] = Counter()
    told = []
    with progress() as bar:
        for (kind, name), make in bar.track(every.items(), description="set-ups"):
            alarms = [alarm(make, kind, seed) for seed in seeds]
            right = not any(alarms) if kind == _SOUND else all(alarms)
            counts[kind, "all"] += 1
            counts[kind, "right"] += right
            if not right:
                told.append(f"{kind}: {name}: {sum(alarms)} of {len(alarms)} starts")
    print_machine()
    return print_all(counts, told, seeds)


def alarm(make: Any, kind: str, seed: int) -> bool:
    """Whether a set-up is called wrong, for its fault if it has one."""
    keras.utils.set_random_seed(seed)
    found = training_findings(*make())
    return any(
        one.severity != "note" and kind in (_SOUND, one.fault.label) for one in found
    )


def print_all(
    counts: Counter[tuple[str, str]], told: list[str], seeds: Collection[int]
) -> int:
    """The table, what was wrong, and the exit code."""
    title = f"On {keras.backend.backend()}, {len(seeds)} starts of each set-up"
    table = results_table(title, ("set-ups",), ("all", "called right"))
    kinds = [kind for kind, what in counts if what == "all"]
    for kind in kinds:
        table.add_row(kind, str(counts[kind, "all"]), str(counts[kind, "right"]))
    console.print(table)
    for line in told:
        console.print(line)
    faulty, found = (
        sum(counts[kind, what] for kind in kinds if kind != _SOUND)
        for what in ("all", "right")
    )
    sound = counts[_SOUND, "all"]
    false = sound - counts[_SOUND, "right"]
    console.print(f"{false} of {sound} false alarms, {found} of {faulty} faults found")
    return int(false > _FALSE_ALARMS * sound + 1e-9 or found < _FOUND * faulty)


if __name__ == "__main__":
    sys.exit(main())
