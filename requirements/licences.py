"""Writes docs/licences.md from what is installed, after a list has changed: run it with .venv/bin/python."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "licences.md"

LISTS = {
    "engine": "`make engine`: compiling, checking, and the runtime's own two, torch and numpy",
    "test": "`make test`, `make demo`, `make bench`: tests, checks and pictures",
    "train": "`make train`, and the tests of it",
    "kernels": "tests of the kernels on a CPU, where torch brings no compilers",
    "tensorrt-rtx": "TensorRT plans; optional",
    "tensorrt-lean": "tests of what runs TensorRT plans; optional",
    "fuzz": "`make fuzz`",
    "hashed/cuda": "what torch's CUDA builds bring",
}

KNOWN = {
    "coloredlogs": "MIT",
    "exceptiongroup": "MIT AND PSF-2.0",
    "humanfriendly": "MIT",
    "tomli": "MIT",
    "atheris": "Apache-2.0",
    "triton": "MIT",
    "cuda-bindings": "NVIDIA Software License",
    "cuda-pathfinder": "Apache-2.0",
}
"""Of packages that are not installed where the table is made: for other Pythons or machines."""

CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zope Public License": "ZPL",
    "zlib/libpng License": "Zlib",
}

HEADER = """# What is bundled, and what is installed, under which licences

Made by `requirements/licences.py` from the packages' own metadata; a test compares it with `requirements/`.

## In this repository

| what | licence |
| --- | --- |
| all code and documentation | Apache-2.0 ([LICENSE](../LICENSE)) |
| `CMG_Ref/runs/g1_neutral`: a checkpoint trained on clips retargeted from the 100STYLE dataset | CC BY 4.0, with the \
attribution in [NOTICE](../NOTICE) |
| `CMG_Ref/runs/g1_all`: a checkpoint trained on clips retargeted from the 100STYLE dataset and from the CMU Graphics \
Lab Motion Capture Database | CC BY 4.0, with the attribution and the credit in [NOTICE](../NOTICE) |

Nothing of another project is copied into it. The Unitree G1's model is read from the mjlab package where that is
installed; of it, an engine folder holds the kinematic chain's numbers.

## Installed by `make`, each into `.venv`

Versions are exact, and files must have the hashes in `requirements/hashed` (`requirements/hash.sh` writes them). Not
covered by hashes: this project's own two packages, which are installed from the working tree; what pip and setuptools
fetch to build a package that has no wheel for a machine; and `make test-py38`, whose list has versions only.
`HASHES=0` takes any file of the pinned version, such as a build of torch from another index. At run time nothing is
fetched: a test runs an engine's life without a network, and no socket is opened.
"""


def licence(name: str) -> str:
    """Of an installed package, in its own words.

    Raises:
        LookupError: it is neither installed nor known.
    """
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        if name.startswith(("nvidia-", "cuda-toolkit")):
            return "NVIDIA, proprietary"
        return KNOWN[name]
    expression = metadata.get("License-Expression")
    if expression:
        return expression
    trove = [line.rsplit(" :: ", 1)[-1] for line in metadata.get_all("Classifier") or [] if line.startswith("License")]
    named = [CLASSIFIERS.get(text, text) for text in trove if text != "OSI Approved"]
    if named:
        return ", ".join(dict.fromkeys(named))
    text = (metadata.get("License") or "").strip().splitlines()
    if text and len(text[0]) < 60:
        return text[0]
    raise LookupError(f"{name} does not say under which licence it is")


def pinned(name: str) -> dict[str, list[str]]:
    """Package -> versions, of a list in ``requirements/``."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9_.-]+)==([^ ;\\]+)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def table() -> str:
    """The whole file."""
    parts = [HEADER]
    for name, purpose in LISTS.items():
        rows = [f"| {p} | {', '.join(v)} | {licence(p)} |" for p, v in sorted(pinned(name).items())]
        parts.append(
            f"\n### {purpose}\n\n| package | version | licence |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
        )
    return "".join(parts)


if __name__ == "__main__":
    OUT.write_text(table())
    sys.exit()
