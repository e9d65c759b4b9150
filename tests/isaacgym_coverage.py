"""What of Isaac Gym's API there is, and which test calls it, as a table.

``PYTHONPATH=legged_gym/isaacgym_warp python -m tests.isaacgym_coverage`` writes it.
It stands in docs/isaacgym.md; ``isaacgym/test_isaacgym_coverage.py`` holds it to the code.
"""

from __future__ import annotations

import ast
import functools
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


@functools.cache
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
    """Name -> the tests, as ``file::test``, that name it in their own lines, then those that get to it by what they
    call of the tests' own functions; of each, those that name the fewest functions of the API come first."""
    uses: dict[str, set[str]] = {}  # function or class of the tests -> names in it
    tests: list[tuple[str, str]] = []
    for path in sorted([*TESTS.glob("*.py"), *(TESTS.parent / "cases").glob("*.py")]):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "isaacgym" in text else ():
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                uses.setdefault(node.name, set()).update(_names(node))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                tests.append((path.stem, node.name))
    tests.sort(key=lambda test: len(uses[test[1]] & methods().keys()))
    found: dict[str, list[str]] = {}
    reached = {test: uses[test[1]] for test in tests}
    for _ in range(4):
        for (file, name), names in reached.items():
            for each in names:
                places = found.setdefault(each, [])
                places += [f"{file}::{name}"] if f"{file}::{name}" not in places else []
        reached = {test: names.union(*(uses.get(name, set()) for name in names)) for test, names in reached.items()}
    return found


def _names(node: ast.AST) -> set[str]:
    """Names and attributes in a function or a class; arguments too, which may be fixtures."""
    found = set()
    for each in ast.walk(node):
        found |= {each.attr} if isinstance(each, ast.Attribute) else set()
        found |= {each.id} if isinstance(each, ast.Name) else set()
        found |= {each.arg} if isinstance(each, ast.arg) else set()
        found |= {each.value} if isinstance(each, ast.Constant) and isinstance(each.value, str) else set()
        if isinstance(each, ast.JoinedStr):  # refresh_..._tensor
            parts = [str(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in each.values]
            found |= {name for name in methods() if "_" in parts[0] and re.fullmatch("".join(parts), name)}
    return found


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
