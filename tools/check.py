"""Linter, formatter and type checker: what must be silent before a change lands.

python tools/check.py          # --fix repairs what ruff can
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def commands(fix: bool) -> list[list[str]]:
    """Arguments of `python -m`, in the order of how long they take."""
    return [
        ["ruff", "check", *(["--fix"] if fix else []), "."],
        ["ruff", "format", *([] if fix else ["--check"]), "."],
        ["mypy"],
    ]


def main() -> int:
    """Runs all of them, also after one has failed, and tells whether one has."""
    codes = [
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT).returncode
        for command in commands("--fix" in sys.argv[1:])
    ]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
