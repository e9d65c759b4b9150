"""``manifest.json`` under the name that it has always had: see :mod:`cmg_runtime.folder.manifest`."""

from cmg_runtime.folder.manifest import Artifact, CommandRange, FileEntry, Manifest, Sizes, Stats, read_manifest

__all__ = ["Artifact", "CommandRange", "FileEntry", "Manifest", "Sizes", "Stats", "read_manifest"]
