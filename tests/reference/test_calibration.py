"""The velocity estimate's sideways bias: a turn that sideways steps only seem to make is measured and taken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from CMG_Ref.evaluation.calibration import BUILT_IN, Calibration, calibrate, calibration_from_dict
from CMG_Ref.evaluation.gait import StanceVelocity
from synthetic_gait import clip_arrays, walk


def test_apparent_turning_of_sideways_steps_is_taken_off(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bias, yaw_factor = rng.uniform(0.2, 0.8) * rng.choice([-1, 1]), rng.uniform(0.7, 0.95)
    speed = rng.uniform(0.32, 0.4)
    straight = [(0.6, 0.0, 0.0), (-0.5, 0.0, 0.0)]
    # (what the feet do, what the root does): the feet turn by ``bias`` per m/s sideways, the root does not.
    motions = [(v, v) for v in straight] + [((0.5, 0.0, 0.5), (0.5, 0.0, 0.5 / yaw_factor))]
    sideways = [((0.0, side, yaw_factor * bias * side), (0.0, side, 0.0)) for side in (speed, -speed)]
    for number, (feet, root) in enumerate(motions + sideways):
        arrays: dict[str, Any] = clip_arrays(walk(feet, 6.0), root)
        np.savez(tmp_path / f"clip{number}.npz", **arrays)
    (tmp_path / "deep").mkdir()
    np.savez(tmp_path / "deep" / "bad.npz", **{**arrays, "dof_positions": np.degrees(arrays["dof_positions"])})
    found = calibrate(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("calibration without deep/bad.npz: ") and "limits" in line
    assert found.yaw == pytest.approx(yaw_factor, rel=0.05)
    assert found.yaw_per_vy == pytest.approx(bias, abs=0.06)

    for feet, root in sideways:
        implied = StanceVelocity(dtype=torch.float64).mean(torch.tensor(walk(feet, 4.0)))
        assert abs(float(implied[2])) > 0.03
        assert found(implied).numpy() == pytest.approx(root, abs=0.03)
    assert calibration_from_dict(found.as_dict(), "there").yaw_per_vy == found.yaw_per_vy
    assert calibration_from_dict({"vx_forward": 1, "vx_backward": 1, "vy": 1, "yaw": 1}, "old").yaw_per_vy == 0


def test_the_bias_goes_with_calibrated_sideways_velocity(rng: np.random.Generator) -> None:
    implied = torch.tensor(rng.normal(size=(5, 4, 3)))
    found = Calibration(0.9, 0.8, 0.7, 0.6, yaw_per_vy=0.5)(implied)
    expected = implied[..., 2] / 0.6 - 0.5 * implied[..., 1] / 0.7
    torch.testing.assert_close(found[..., 2], expected)
    without = Calibration(0.9, 0.8, 0.7, 0.6)(implied)
    torch.testing.assert_close(found[..., :2], without[..., :2])
    assert BUILT_IN.yaw_per_vy == pytest.approx(0.586)
