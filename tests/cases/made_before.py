"""Engine folders for tests on a Python that cannot export: ``python tests/cases/made_before.py DIRECTORY``.

With the same seed (CMG_TEST_SEED) and the directory in CMG_TEST_FOLDERS, ``engine_folder.py`` then finds them.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np

os.environ.setdefault("CMG_TEST_SEED", "0")
os.environ.pop("CMG_TEST_FOLDERS", None)  # they are made here

from dropin_case import g1_case  # they read the seed when imported
from engine_folder import Truth, shared_engine_folder


def keep(name: str, folder: Path, truth: Truth, directory: Path) -> None:
    """Copy a folder, and put its truth beside it as plain arrays."""
    shutil.copytree(folder, directory / name, ignore=shutil.ignore_patterns("checkpoint"))
    arrays = {key: value.numpy() for key, value in truth.model.state_dict().items()}
    for key in ("motion_mean", "motion_std", "command_min", "command_max"):
        arrays[key] = np.asarray(truth.stats[key])
    np.savez(directory / name / "truth.npz", **arrays)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    out = Path(sys.argv[1])
    keep("shared", *shared_engine_folder(), out)
    for joints in (29, 23):
        case = g1_case(joints)
        keep(f"g1_{joints}", case.folder, case.truth, out)
