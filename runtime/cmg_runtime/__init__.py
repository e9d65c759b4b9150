"""Run a compiled Conditional Motion Generator: thousands of environments, one frame at a time.

Example:
    engine = load_engine("engines/g1_all", num_envs=4096)
    engine.reset(command=[0.8, 0.0, 0.0])
    dof_pos, dof_vel = engine.step()
"""

from pathlib import Path as _Path

from cmg_runtime.engine import Engine
from cmg_runtime.errors import BackendUnavailable, EngineError
from cmg_runtime.folder.manifest import Manifest, read_manifest
from cmg_runtime.loading import load_engine
from cmg_runtime.window.frames import ReferenceFrames
from cmg_runtime.window.future_view import FutureView
from cmg_runtime.window.planned_starts import PlannedStarts
from cmg_runtime.window.pool import TrajectoryPool
from cmg_runtime.window.report import Report

__version__ = _Path(__file__).with_name("VERSION").read_text(encoding="utf-8").strip()

__all__ = [
    "BackendUnavailable",
    "Engine",
    "EngineError",
    "FutureView",
    "Manifest",
    "PlannedStarts",
    "ReferenceFrames",
    "Report",
    "TrajectoryPool",
    "load_engine",
    "read_manifest",
]
