"""Adds ``CMG_Ref.utils``, the path that training code imports the generator from, to what is installed.

It lies in the repository beside this folder, so it is copied into the build and into a source distribution. An editable
install leaves it where it is: there the repository's own ``CMG_Ref`` is at hand.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
UNPACKED, BESIDE = HERE / "CMG_Ref" / "utils", HERE.parent / "CMG_Ref" / "utils"
UTILS = UNPACKED if UNPACKED.is_dir() else BESIDE


def copy_utils(folder: Path) -> None:
    """Copy the modules of ``CMG_Ref/utils`` below a folder."""
    modules = sorted(UTILS.glob("*.py"))
    if not modules:
        raise SystemExit(f"error: no CMG_Ref/utils in {HERE} or beside it; build in the repository, or from an sdist")
    target = folder / "CMG_Ref" / "utils"
    target.mkdir(parents=True, exist_ok=True)
    for path in modules:
        shutil.copy2(path, target / path.name)


class BuildWithUtils(build_py):
    """Copies ``CMG_Ref/utils`` beside the package's own modules."""

    def run(self) -> None:
        super().run()
        if not getattr(self, "editable_mode", False):
            copy_utils(Path(self.build_lib))


class SdistWithUtils(sdist):
    """Copies ``CMG_Ref/utils`` into the source distribution."""

    def make_release_tree(self, base_dir: str, files: list) -> None:
        super().make_release_tree(base_dir, files)
        copy_utils(Path(base_dir))


setup(cmdclass={"build_py": BuildWithUtils, "sdist": SdistWithUtils})
