"""Adds ``CMG_Ref.utils``, the path that training code imports the generator from, to what is installed.

It lies in the repository beside this folder, so it is copied into the build. An editable install leaves it where it is:
there the repository's own ``CMG_Ref`` is at hand.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

UTILS = Path(__file__).resolve().parent.parent / "CMG_Ref" / "utils"


class BuildWithUtils(build_py):
    """Copies ``CMG_Ref/utils`` beside the package's own modules."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return
        target = Path(self.build_lib) / "CMG_Ref" / "utils"
        target.mkdir(parents=True, exist_ok=True)
        for path in UTILS.glob("*.py"):
            shutil.copy2(path, target / path.name)


setup(cmdclass={"build_py": BuildWithUtils})
