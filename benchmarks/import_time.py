"""What importing the package adds to importing Keras, in seconds.

    python benchmarks/import_time.py

Starts Python anew for each import, in turns, on each backend that is installed, and takes
the shortest of each: whatever else the machine does only ever adds.
"""

import os
import subprocess
import sys

from harness import console, installed_backends, print_machine

ROUNDS = 7
# Keras is imported first on both sides: the second import is that of the package alone.
PROGRAM = """
import time
import keras
start = time.perf_counter()
import keras_fanwise
print(time.perf_counter() - start)
"""


def seconds(backend: str) -> float:
    """To import the package in a process that has imported Keras."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(result.stdout)


def main() -> None:
    print_machine()
    for backend in installed_backends():
        fastest = min(seconds(backend) for _ in range(ROUNDS))
        console.print(f"{backend}: {fastest:.3f} s more than `import keras`")


if __name__ == "__main__":
    main()
