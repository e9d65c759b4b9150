"""Who imports whom, from the sources: ``python -m tests.imports`` prints it, ``project/test_imports.py`` holds it.

A room is a file or a folder at the top of a package; docs/architecture.md says what each is for. Imports inside
functions and those for type checkers count as well: a direction that is kept only sometimes is none.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FRONT_DOOR = ""
"""The room of a package's own ``__init__`` and ``__main__``, which may import every other."""


@dataclass(frozen=True)
class Package:
    """One package of the project.

    Attributes:
        name: as it is imported.
        folder: where its sources are.
        order: its rooms from the lowest level up; each imports only rooms of levels below its own.
        forwarding: modules that only import what others define, because existing code imports it by that path.
        upwards: modules that import a package above theirs, when they are asked for; nothing there imports their room.
    """

    name: str
    folder: Path
    order: tuple[tuple[str, ...], ...]
    forwarding: frozenset[str] = frozenset()
    upwards: frozenset[str] = frozenset()

    @cached_property
    def modules(self) -> dict[str, Path]:
        """Dotted name -> file. A folder's ``__init__`` has the folder's name."""
        found = {}
        for path in sorted(self.folder.rglob("*.py")):
            parts = path.relative_to(self.folder).with_suffix("").parts
            found[".".join([self.name, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
        return found

    @cached_property
    def imports(self) -> set[tuple[str, str]]:
        """(importing module, imported module), of the modules that are imported, not of the names in them."""
        found = set()
        for importer, path in self.modules.items():
            for name in imported_names(path, importer):
                while name and name not in self.modules:
                    name = name.rpartition(".")[0]
                if name and name != importer:
                    found.add((importer, name))
        return found

    @cached_property
    def between_rooms(self) -> set[tuple[str, str]]:
        """(importing room, imported room), without the front door's own imports."""
        pairs = {(self.room(a), self.room(b)) for a, b in self.imports}
        return {(a, b) for a, b in pairs if a != b and a != FRONT_DOOR}

    def room(self, module: str) -> str:
        """The room that a module is in."""
        parts = module.split(".")
        return FRONT_DOOR if len(parts) == 1 or parts[1] == "__main__" else parts[1]

    def problems(self) -> list[str]:
        """What is against the order, a line each: imports upwards, circles, files that only forward."""
        level = {room: height for height, rooms in enumerate(self.order) for room in rooms}
        rooms = {self.room(module) for module in self.modules} - {FRONT_DOOR}
        found = [f"{self.name}: the room {room} has no place in the order" for room in sorted(rooms - set(level))]
        found += [f"{self.name}: {room} is in the order, and there is none" for room in sorted(set(level) - rooms)]
        for importer, imported in sorted(self.imports):
            above, below = self.room(importer), self.room(imported)
            if FRONT_DOOR in (above, below) or above == below or above not in level:
                continue
            if level.get(below, 0) >= level[above]:
                found.append(f"{importer} imports {imported}, which is not below it")
        found += [f"these import each other: {', '.join(sorted(circle))}" for circle in circles(self.imports)]
        for module, path in self.modules.items():
            gathers = any(other.startswith(f"{module}.") for other in self.modules)  # what its own folder defines
            if forwards_only(path) and not gathers and module not in self.forwarding:
                found.append(f"{module} only forwards what others define")
        return found


RUNTIME = Package(
    "cmg_runtime",
    ROOT / "runtime" / "cmg_runtime",
    (
        ("errors",),
        ("inputs", "folder"),
        ("device",),
        ("guard",),
        ("backends",),
        ("window",),
        ("engine", "commands"),
        ("loading",),
        ("isaac_gym",),
        ("motion_lib", "motion_generator"),
        ("manifest",),
    ),
    frozenset({"cmg_runtime.manifest"}),
)

EXPORT = Package(
    "cmg_export",
    ROOT / "export" / "cmg_export",
    (
        ("errors", "progress", "timing"),
        ("beside", "machine", "reporting"),
        ("read",),
        ("provenance",),
        ("compile",),
        ("parity",),
        ("publish",),
        ("build",),
        ("bench", "soak", "demo", "verify", "plan_layers", "inspect"),
    ),
    upwards=frozenset({"cmg_export.bench.time_share", "cmg_export.bench.training_speed"}),
)

ISAACGYM = Package(
    "isaacgym",
    ROOT / "legged_gym" / "isaacgym_warp" / "isaacgym",
    (
        ("structs", "shadowing"),
        ("gymtorch", "gymutil", "terrain_utils", "torch_utils"),
        ("links", "meshes", "triangles", "tensors", "graphs"),
        ("robot", "buffers", "step_kernels", "ground_contacts"),
        ("urdf", "masses", "ground", "step_report"),
        ("asset",),
        ("worlds",),
        ("model",),
        ("simulation",),
        ("sim", "drawing"),
        ("assets", "tensor_calls", "viewer"),
        ("actors",),
        ("gym",),
        ("gymapi",),
    ),
)

GYM = Package(
    "cmg_gym",
    ROOT / "legged_gym" / "cmg_gym",
    (
        ("mdp", "policy_card", "generator", "captured", "ppo", "curves", "drawing"),
        ("controller",),
        ("robots",),
        ("rl_cfg", "pictures", "conditions"),
        ("env_cfg", "learning"),
        ("tasks", "command_line", "velocity_task", "simulated_robot"),
        ("evaluation",),
        ("walk", "bars"),
        ("train", "play", "drive", "evaluate", "export_checkpoint", "latency", "soak", "time_share"),
        ("sim2sim",),
    ),
)

REFERENCE = Package(
    "CMG_Ref",
    ROOT / "CMG_Ref",
    (
        ("module", "interrupts", "mujoco_import", "robot_g1", "files"),
        ("command_line",),
        ("checkpoint",),
        ("dataloader",),
        ("training", "evaluation"),
        ("train", "eval_cmg", "make_bank", "utils"),
    ),
    frozenset({"CMG_Ref.utils.command_sampler", "CMG_Ref.utils.cmg_motion_generator"}),
)

PACKAGES = (ISAACGYM, RUNTIME, REFERENCE, EXPORT, GYM)
"""From the lowest up: each may import those before it, none after it."""


def imported_names(path: Path, module: str) -> Iterable[str]:
    """Every dotted name that a file's import statements could mean: of ``from a import b``, ``a.b`` may be a module."""
    is_package = path.name == "__init__.py"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def circles(edges: set[tuple[str, str]]) -> list[set[str]]:
    """Sets of two and more that reach each other by the edges."""
    reach = {node: {b for a, b in edges if a == node} for edge in edges for node in edge}
    changed = True
    while changed:
        wider = {node: there.union(*(reach[near] for near in there)) for node, there in reach.items()}
        changed, reach = wider != reach, wider
    found: list[set[str]] = []
    for node, there in reach.items():
        together = {other for other in there if node in reach[other]}
        if len(together) > 1 and together not in found:
            found.append(together)
    return found


def levels(edges: set[tuple[str, str]]) -> int:
    """How many stand above each other on the longest way down. The edges have no circle."""
    heights: dict[str, int] = {}

    def height(node: str) -> int:
        if node not in heights:
            heights[node] = 1 + max((height(b) for a, b in edges if a == node), default=0)
        return heights[node]

    return max((height(a) for a, _ in edges), default=1)


def forwards_only(path: Path) -> bool:
    """Whether a file does nothing but import names, and perhaps say that they are its own."""
    body = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if not _is_text(node)]
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom)) and not _is_future(node)]
    rest = [node for node in body if not isinstance(node, (ast.Import, ast.ImportFrom)) and not _names_its_own(node)]
    return bool(imports) and not rest


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _names_its_own(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]


def packages_upwards(packages: tuple[Package, ...] = PACKAGES) -> list[str]:
    """Imports of a package by one that stands before it, a line each."""
    found = []
    for height, package in enumerate(packages):
        above = {other.name for other in packages[height + 1 :]}
        for module, path in package.modules.items():
            names = {name.split(".")[0] for name in imported_names(path, module)} & above
            if module not in package.upwards:
                found += [f"{module} imports {name}, which stands above it" for name in sorted(names)]
        rooms = {f"{package.name}.{package.room(module)}" for module in package.upwards}
        for other in packages[height + 1 :]:
            for module, path in other.modules.items():
                imported = {".".join(name.split(".")[:2]) for name in imported_names(path, module)}
                found += [f"{module} imports {room}, which imports packages above its own" for room in imported & rooms]
    return found


def table(package: Package) -> str:
    """The rooms of a package with their lines and what they import, under one line of sums."""
    lines: dict[str, int] = {}
    for module, path in package.modules.items():
        room = package.room(module)
        lines[room] = lines.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
    edges = package.between_rooms
    together = circles(edges)
    heights = f"{len(together)} circles of rooms" if together else f"{levels(edges)} levels, no circle of rooms"
    rooms = len(lines.keys() - {FRONT_DOOR})
    rows = [
        f"{package.name}: {rooms} rooms, {len(package.modules)} files, {sum(lines.values())} lines, "
        f"{len(edges)} imports between rooms, {heights}, {len(circles(package.imports))} circles of files"
    ]
    for room, count in sorted(lines.items(), key=lambda item: -item[1]):
        rows.append(f"  {room or '(front door)':18} {count:6}  {' '.join(sorted(b for a, b in edges if a == room))}")
    return "\n".join(rows + [f"  circle: {' '.join(sorted(circle))}" for circle in together])


def lines_of_tests() -> str:
    """Lines of the tests, a folder each."""
    counts: dict[str, int] = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        folder = path.parent.relative_to(ROOT).as_posix()
        counts[folder] = counts.get(folder, 0) + len(path.read_text(encoding="utf-8").splitlines())
    rows = [f"  {folder:22} {count:6}" for folder, count in counts.items()]
    return "\n".join([f"tests: {sum(counts.values())} lines", *rows])


def main() -> None:
    for package in PACKAGES:
        print(table(package), end="\n\n")
    print(lines_of_tests())
    for problem in [*packages_upwards(), *(each for package in PACKAGES for each in package.problems())]:
        print(f"against the order: {problem}")


if __name__ == "__main__":
    main()
