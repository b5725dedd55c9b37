"""``python -m benchmarks [NAME [ARGUMENTS]]``: run one, or say which there are."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path


def available() -> dict[str, str]:
    """Every benchmark of this folder with the first line of its docstring."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.stem.startswith("_"):
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = doc.partition("\n")[0]
    return found


def main() -> None:
    """Hand over to the benchmark that was named."""
    names = available()
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        for name, line in names.items():
            print(f"python -m benchmarks {name:<14}{line}")
        sys.exit(len(sys.argv) > 1)
    name = sys.argv.pop(1)
    sys.argv[0] = f"benchmarks.{name}"
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")


if __name__ == "__main__":
    main()
