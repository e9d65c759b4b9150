"""What of Isaac Gym's API there is, and which test calls it: ``python -m tests.isaacgym_coverage`` writes the table.

It stands in docs/isaacgym.md; ``isaacgym/test_isaacgym_coverage.py`` holds it to the code.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from isaacgym.gym import Gym

TESTS = Path(__file__).resolve().parent / "isaacgym"
DOCUMENT = TESTS.parents[1] / "docs" / "isaacgym.md"
HEADER = "| function | there | called by, among others |\n| --- | --- | --- |\n"
DONE, ACCEPTED = "yes", "accepted, nothing to do"


def methods() -> dict[str, str]:
    """Each public method of ``Gym`` and whether it does something."""
    found = {name: each for name, each in inspect.getmembers(Gym, inspect.isfunction) if not name.startswith("_")}
    return {name: ACCEPTED if does_nothing(each) else DONE for name, each in found.items()}


def does_nothing(method: Callable[..., object]) -> bool:
    """Whether a method only returns that it succeeded, or nothing."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(method))).body
    assert isinstance(function, ast.FunctionDef)
    rest = [node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return all(ast.unparse(node) == "return True" for node in rest)


def callers() -> dict[str, list[str]]:
    """Name -> the tests, as ``file::test``, that name it in their own lines; after them those that get to it by what
    they call of the tests' own functions."""
    named: dict[str, set[str]] = {}  # function -> attributes and names in it
    tests: list[tuple[str, str]] = []
    for path in sorted([*TESTS.glob("*.py"), *(TESTS.parent / "cases").glob("*isaacgym*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                named.setdefault(node.name, set()).update(_names(node))
                tests += [(path.stem, node.name)] if node.name.startswith("test_") else []
    found: dict[str, list[str]] = {}
    for depth in range(3):
        for file, test in tests:
            reached = {test}
            for _ in range(depth):
                reached |= set().union(*(named.get(name, set()) for name in reached))
            for name in set().union(*(named.get(name, set()) for name in reached)):
                place = f"{file}::{test}"
                if place not in found.setdefault(name, []):
                    found[name].append(place)
    return found


def _names(node: ast.FunctionDef) -> set[str]:
    """Attributes and names that a function uses; its arguments too, which may be fixtures."""
    arguments = {argument.arg for argument in node.args.args}
    attributes = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
    return arguments | attributes | {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def main() -> None:
    tested = callers()
    table = HEADER
    for name, there in methods().items():
        places = tested.get(name, [])
        table += f"| `{name}` | {there} | {f'`{places[0]}`' if places else ''} |\n"
    text, count = re.subn(re.escape(HEADER) + r"(?:\|.*\n)*", lambda _: table, DOCUMENT.read_text(encoding="utf-8"))
    assert count == 1, f"{DOCUMENT} has {count} tables of this header"
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
