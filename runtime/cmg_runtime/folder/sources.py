"""What a package is made of, as one hash: what a result depends on that its code has computed."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Dict, Mapping, Sequence


def sources_sha256(files: Mapping[str, Path]) -> str:
    """One hash over the names and the bytes of files, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(files):
        content = hashlib.sha256(files[name].read_bytes()).hexdigest()
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()


def package_files(folder: Path) -> Mapping[str, Path]:
    """Every file of a package by its name within: modules, kernels, headers and whatever else its code reads. Left out
    are bytecode, and hidden files, which editors leave."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path
        for name, path in files.items()
        if not any(part == "__pycache__" or part.startswith(".") for part in name.split("/"))
    }


def installed_versions(names: Sequence[str]) -> Dict[str, str]:
    """Versions of those of the named packages that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
