"""Which room imports which, from the sources: ``python -m tests.imports`` prints it, and ``test_imports`` holds it.

A room is a file or a folder at the top of a package. Imports inside functions and for type checkers count as well: a
direction that is only sometimes kept is none.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PACKAGES = {
    "cmg_runtime": ROOT / "runtime" / "cmg_runtime",
    "cmg_export": ROOT / "export" / "cmg_export",
    "cmg_gym": ROOT / "legged_gym" / "cmg_gym",
    "CMG_Ref": ROOT / "CMG_Ref",
}


@dataclass(frozen=True)
class Import:
    """One import of a project's module, from ``importer`` to ``imported``: dotted names."""

    importer: str
    imported: str


def modules_of(package: str) -> dict[str, Path]:
    """Dotted name -> file. A folder's ``__init__`` has the folder's name."""
    found = {}
    for path in sorted(PACKAGES[package].rglob("*.py")):
        parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
        found[".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return found


def imports_of(package: str) -> list[Import]:
    """Every import within a package: of the module that is imported, not of the names in it."""
    modules = modules_of(package)
    found = []
    for importer, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name in modules else node.module for name in names]
            found += [Import(importer, name) for name in dict.fromkeys(names) if name in modules]
    return found


def room_of(module: str) -> str:
    """The room that a module is in; the package's own ``__init__`` and ``__main__`` are the front door, ""."""
    parts = module.split(".")
    return "" if len(parts) == 1 or parts[1] == "__main__" else parts[1]


def between_rooms(package: str) -> set[tuple[str, str]]:
    """(importing room, imported room), without the front door."""
    pairs = {(room_of(each.importer), room_of(each.imported)) for each in imports_of(package)}
    return {(a, b) for a, b in pairs if a != b and a and b}


def circles(edges: set[tuple[str, str]]) -> list[set[str]]:
    """Sets of nodes that reach each other."""
    reach = {node: {b for a, b in edges if a == node} for edge in edges for node in edge}
    changed = True
    while changed:
        wider = {node: there | {far for near in there for far in reach[near]} for node, there in reach.items()}
        changed, reach = wider != reach, wider
    found: list[set[str]] = []
    for node, there in reach.items():
        together = {other for other in there if node in reach[other]}
        if len(together) > 1 and together not in found:
            found.append(together)
    return found


def levels(edges: set[tuple[str, str]]) -> int:
    """Rooms on the longest way down. The edges have no circle."""
    depth: dict[str, int] = {}

    def depth_of(node: str) -> int:
        if node not in depth:
            depth[node] = 1 + max((depth_of(b) for a, b in edges if a == node), default=0)
        return depth[node]

    return max((depth_of(a) for a, _ in edges), default=1)


def file_circles(package: str) -> list[set[str]]:
    """Files that import each other, directly or by others."""
    return circles({(each.importer, each.imported) for each in imports_of(package) if each.importer != each.imported})


def forwards_only(path: Path) -> bool:
    """Whether a file only imports names and says that they are its own."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    named = [isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__" for node in body]
    rest = [
        node
        for node, is_names in zip(body, named, strict=True)
        if not is_names and not isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    return any(named) and all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in rest)


def main() -> None:
    for package, folder in PACKAGES.items():
        modules, edges = modules_of(package), between_rooms(package)
        lines = {room: 0 for room in sorted({room_of(module) for module in modules})}
        for module, path in modules.items():
            lines[room_of(module)] += len(path.read_text(encoding="utf-8").splitlines())
        together = circles(edges)
        print(f"{package}: {len(lines) - 1} rooms, {len(modules)} files, {sum(lines.values())} lines, ", end="")
        print(f"{len(edges)} imports between rooms, ", end="")
        print(
            f"{len(together)} circles of rooms" if together else f"{levels(edges)} levels, no circle of rooms", end=""
        )
        print(f", {len(file_circles(package))} circles of files   ({folder.relative_to(ROOT)})")
        for room, count in sorted(lines.items(), key=lambda item: -item[1]):
            imported = sorted(b for a, b in edges if a == room)
            print(f"  {room or '(front door)':18} {count:6}  {' '.join(imported)}")
        for circle in together:
            print(f"  circle: {' '.join(sorted(circle))}")


if __name__ == "__main__":
    main()
