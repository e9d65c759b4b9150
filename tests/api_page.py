"""``python -m tests.api_page`` writes docs/api.md: signatures and docstrings of what users call, as Markdown.

``project/test_api_page.py`` holds the page to the code.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "api.md"

HEAD = """# What can be called

From the docstrings, by `python -m tests.api_page`; a test holds this page to the code. For a beginning see
[frames.md](frames.md); the motion library and the generator in existing code: [twist.md](twist.md); the control loop:
[deploy.md](deploy.md).

Arguments may be tensors, numpy arrays or lists. `n` and `M` are however many are given, `..` the dimensions of
the call.
"""

CHAPTERS = (
    (
        "Engines",
        "cmg_runtime",
        (
            "load_engine", "Engine", "ReferenceFrames", "FutureView", "TrajectoryPool", "PlannedStarts", "Report",
            "read_manifest", "Manifest", "EngineError", "BackendUnavailable",
        ),
    ),
    ("Motion library", "cmg_runtime.motion_lib", ("create_motion_lib_cmg", "MotionLibCMG")),
    ("Motion generator", "CMG_Ref.utils.cmg_motion_generator", ("CMGMotionGenerator", "CommandSmoother")),
    (
        "Commands",
        "CMG_Ref.utils.command_sampler",
        ("CommandSampler", "get_stage_sampler", "STRATEGIES", "STAGES", "PRESETS"),
    ),
    ("Control loop", "cmg_gym.controller", ("Controller", "Proprioception")),
    ("Exported policies", "cmg_gym.policy_card", ("PolicyCard", "read_card")),
)  # fmt: skip
"""Title, the module that users import from, and what they find there."""

OWN = {"after_fork", "checked", "clamp"}
"""Methods that the packages call of each other."""

TITLES = ("Args", "Attributes", "Returns", "Raises")


def page() -> str:
    """The whole of docs/api.md."""
    contents = [f"- `{module}`: {', '.join(_link(name) for name in names)}" for _, module, names in CHAPTERS]
    parts = [HEAD, "\n".join(contents) + "\n"]
    for title, module, names in CHAPTERS:
        parts.append(f"## {title}\n\n`from {module} import ...`\n")
        for name in names:
            parts += _entry(name, getattr(importlib.import_module(module), name))
    return "\n".join(parts)


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _entry(name: str, thing: Any) -> Iterator[str]:
    """A function, a class with its methods and properties, its bases' too, or a constant of commands."""
    if isinstance(thing, (dict, tuple)):
        yield f"### {name}\n"
        yield _constant(thing)
        return
    called = inspect.isfunction(thing) or "__init__" in vars(thing) or hasattr(thing, "__dataclass_fields__")
    made_by_users = called and name not in ("Engine", "FutureView", "TrajectoryPool", "PlannedStarts", "Report")
    yield f"### {name}\n"
    if made_by_users:
        yield f"```\n{name}{_arguments(thing)}\n```\n"
    yield _markdown(inspect.getdoc(thing))
    if inspect.isclass(thing):
        for member, method in public_members(thing).items():
            if isinstance(method, property):
                if method.__doc__:
                    yield f"#### {name}.{member}\n"
                    yield _markdown(inspect.getdoc(method))
            else:
                yield f"#### {name}.{member}\n\n```\n{member}{_arguments(method, 1)}\n```\n"
                yield _markdown(inspect.getdoc(method))


def _constant(thing: dict[str, Any] | tuple[str, ...]) -> str:
    """Names, or a table of ranges of commands by name."""
    if isinstance(thing, tuple):
        return ", ".join(f"`{name}`" for name in thing) + "\n"
    rows = [[f"`{name}`", *(f"{low:g} .. {high:g}" for low, high in ranges)] for name, ranges in thing.items()]
    head = ["name", "vx m/s", "vy m/s", "yaw rate rad/s"]
    return "".join("| " + " | ".join(row) + " |\n" for row in [head, ["---"] * len(head), *rows])


def public_members(thing: type) -> dict[str, Any]:
    """Methods and properties that users call, in the order of the source, those of bases of our own behind."""
    ours = [base for base in thing.__mro__ if base.__module__.startswith("cmg_") and not issubclass(base, Exception)]
    found: dict[str, Any] = {}
    for base in ours:
        for name, member in vars(base).items():
            public = not name.startswith("_") and name not in OWN
            if public and (isinstance(member, property) or inspect.isfunction(member)):
                found.setdefault(name, member)
    return found


def _arguments(function: Any, first: int = 0) -> str:
    """``(env_ids=None, *, seed=0)``: what types cannot say of arrays is in the docstring."""
    parameters = list(inspect.signature(function).parameters.values())[first:]
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    text = str(inspect.Signature(plain))
    if len(text) <= 100:
        return text
    words: list[str] = [str(parameter) for parameter in plain]
    keyword = next((i for i, parameter in enumerate(plain) if parameter.kind == parameter.KEYWORD_ONLY), None)
    if keyword is not None:
        words.insert(keyword, "*")
    return "(\n" + "".join(f"    {word},\n" for word in words) + ")"


def _markdown(docstring: str | None) -> str:
    """A docstring in Google's style. Its roles become code, its sections lists."""
    assert docstring, "everything that users call has a docstring"
    text = re.sub(r":\w+:`~?([^`]+)`", lambda role: f"`{_short(role[1])}`", docstring).replace("``", "`")
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        title = line.removesuffix(":")
        if title in TITLES and line.endswith(":"):
            inside = title not in ("Returns",)
            lines += [f"**{title}**", ""]
        elif inside and (item := re.match(r" {4}(\S[^:]*): (.*)", line)):
            lines.append(f"- {', '.join(f'`{word}`' for word in item[1].split(', '))}: {item[2]}")
        elif line.startswith("    "):
            lines.append(f"  {line.strip()}" if inside else line.strip())
        else:
            inside = inside and not line.strip()
            lines.append(line)
    return "\n".join(lines).rstrip() + "\n"


def _short(name: str) -> str:
    """``cmg_runtime.Engine.start`` as ``Engine.start``; names of modules stay."""
    parts = name.split(".")
    capital = next((i for i, part in enumerate(parts) if part[:1].isupper()), None)
    return name if capital is None else ".".join(parts[capital:])


if __name__ == "__main__":
    DOCUMENT.write_text(page(), encoding="utf-8")
