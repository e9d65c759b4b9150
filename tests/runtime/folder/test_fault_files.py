"""Files of engines and checkpoints: killed writers, full disks, folders to be read only, and damage of every kind."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import CMG_Ref.train
from cmg_export.errors import ExportError
from cmg_export.publish import check_out, staging
from cmg_gym.learning.runner import ResidualRunner, iteration_of, latest_checkpoint
from CMG_Ref.files.torch_files import read_pt, write_pt
from cmg_runtime import load_engine
from cmg_runtime.folder.kept_files import replace_file
from engine_folder import renamed_copy
from full_disk import largest_file
from killing import contents, ended, in_child, killed_at, run_command
from training_case import make_data

NOBODY = 65534


@pytest.mark.slow
@pytest.mark.parametrize("operation", range(12))
def test_a_checkpoint_killed_while_it_is_written(tmp_path: Path, operation: int) -> None:
    path = tmp_path / "cmg.pt"
    write_pt(path, {"epoch": 1})
    killed = killed_at(operation, tmp_path, lambda: write_pt(path, {"epoch": 2}))
    assert read_pt(path)["epoch"] in ((1, 2) if killed else (2,))
    write_pt(path, {"epoch": 3})
    assert read_pt(path)["epoch"] == 3 and os.listdir(tmp_path) == ["cmg.pt"]


def save(iteration: int, folder: Path) -> None:
    """By a runner without an environment: a state of a megabyte that consists of one number."""
    runner = object.__new__(ResidualRunner)
    runner.env = SimpleNamespace(unwrapped=SimpleNamespace(common_step_counter=iteration))  # pyright: ignore
    runner.alg = SimpleNamespace(save=lambda: {"weights": torch.full((1 << 18,), iteration)})  # pyright: ignore
    runner.logger = SimpleNamespace(writer=None)  # pyright: ignore
    runner.trained_with = {}
    runner.cfg, runner.current_learning_iteration = {"upload_model": False}, iteration
    runner.save(str(folder / f"model_{iteration}.pt"))


def save_on(folder: Path) -> None:
    """What a training run does, without training: goes on behind the newest checkpoint, and saves every iteration."""
    newest = latest_checkpoint(folder.parent)
    for iteration in itertools.count(iteration_of(newest) + 1 if newest else 0):
        save(iteration, folder)


def newest_is_whole(experiment: Path) -> int:
    """The newest checkpoint's iteration; it has to be complete."""
    newest = latest_checkpoint(experiment)
    assert newest is not None
    saved = torch.load(newest, weights_only=True)
    assert saved["iter"] == iteration_of(newest)
    assert torch.equal(saved["weights"], torch.full((1 << 18,), saved["iter"]))
    return saved["iter"]


@pytest.mark.slow
def test_training_killed_at_random_moments_resumes(tmp_path: Path, rng: np.random.Generator) -> None:
    run = tmp_path / "experiment" / "run"
    run.mkdir(parents=True)
    reached = [-1]
    for _ in range(12):
        child, deadline = in_child(lambda: save_on(run)), time.monotonic() + 60
        while not (newest := latest_checkpoint(run.parent)) or iteration_of(newest) <= reached[-1]:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        reached.append(newest_is_whole(run.parent))
    assert reached == sorted(set(reached))


def test_a_training_checkpoint_killed_at_every_file_operation(tmp_path: Path) -> None:
    run = tmp_path / "experiment" / "run"
    operation, killed = 0, True
    while killed:
        shutil.rmtree(run.parent, ignore_errors=True)
        run.mkdir(parents=True)
        for iteration in range(3):
            save(iteration, run)
        killed = killed_at(operation, tmp_path, lambda: save(3, run))
        assert newest_is_whole(run.parent) in ((2, 3) if killed else (3,))
        operation += 1
    assert operation > 3 and len(list(run.iterdir())) == 3  # the newest two, and the first, which is kept


@pytest.mark.parametrize("write", ["kept file", "checkpoint"])
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, write: str) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"old")

    def fill() -> None:
        with largest_file(1000), pytest.raises((OSError, RuntimeError)):  # the latter is torch's
            replace_file(path, bytes(5000)) if write == "kept file" else write_pt(path, {"epoch": "1" * 5000})

    assert ended(in_child(fill)) == 0
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["kept"]


def test_a_folder_that_may_only_be_read() -> None:
    """As an ordinary user: permissions do not hold root."""
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)
        out = renamed_copy(Path(scratch) / "place" / "engine", "old")
        out.chmod(0o555)
        out.parent.chmod(0o555)
        load_engine(out, 2, backend="torch")  # now: what it imports on first use, the other user may not read

        def use() -> None:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            for refused in (lambda: check_out(out, []), lambda: staging(out).__enter__()):
                with pytest.raises(ExportError, match="choose another --out"):
                    refused()
            with pytest.raises(OSError):
                replace_file(out / "first_load.json", b"{}")
            engine = load_engine(out, 2, backend="torch")  # reading is all that it needs
            engine.reset(command=[0.1, 0.0, 0.0])
            engine.step()

        before = contents(out)
        try:
            assert ended(in_child(use)) == 0 and contents(out) == before
        finally:
            out.parent.chmod(0o755)
            out.chmod(0o755)


@pytest.mark.slow
def test_training_a_generator_killed_at_random_moments_ends_as_if_it_had_not_been(
    tmp_path: Path, rng: np.random.Generator, seed: int
) -> None:
    """The command, saving after every step: whenever it is killed, the next one goes on from a whole file."""
    write_pt(tmp_path / "data.pt", make_data(rng))
    command = ["--data", str(tmp_path / "data.pt"), "--phases", "150", "2", "--seed", str(seed), "--device", "cpu"]
    command += ["--hidden-dim", "12", "--num-experts", "2", "--batch-size", "8", "--save-every", "1"]
    context = multiprocessing.get_context("forkserver")  # each of them begins as a process that has imported all
    context.set_forkserver_preload(["CMG_Ref.train", "torch._dynamo"])

    def start(out: Path) -> Any:
        process = context.Process(target=run_command, args=(CMG_Ref.train.main, [*command, "--out", str(out)]))
        process.start()
        return process

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    (first := start(whole)).join(300)
    assert first.exitcode == 0
    last, kills, deadline = killed / "cmg_last.pt", 0, time.monotonic() + 240
    while True:
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = start(killed)
        while process.exitcode is None and (not last.exists() or last.stat().st_mtime_ns == before):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        if kills < 4:
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
        process.join(300)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        read_pt(last)
    assert kills > 1
    one, other = (read_pt(out / "cmg_final.pt") for out in (whole, killed))
    for name, value in one["model_state_dict"].items():
        assert torch.equal(value, other["model_state_dict"][name]), name
