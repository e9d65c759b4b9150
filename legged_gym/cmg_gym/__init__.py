"""cmg_gym: reinforcement learning of walking on generated reference motion, as tasks of mjlab.

Importing it, or any module of it, registers the tasks, which mjlab does through its entry-point group ``mjlab.tasks``.
Without the simulator only :mod:`cmg_gym.controller` can be used, and what it imports, which need none.
"""

import importlib.util
import os

# rsl_rl keeps the state of repositories beside its logs, and where there is no git it could as well not be imported.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

if importlib.util.find_spec("rsl_rl") is not None:
    from CMG_Ref import interrupts

    interrupts.end_at_once(__name__)

    from cmg_gym.drawing import choose_renderer

    choose_renderer()
    from cmg_gym import tasks as tasks


def __getattr__(name: str) -> str:
    """``__version__``: the runtime's, whose import takes torch with it; so only when it is asked for."""
    if name == "__version__":
        from cmg_runtime import __version__

        return __version__
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
