"""Wrong input to the commands that measure is one line; other lists of command lines have other rows."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cmg_export.bench import __main__ as bench
from cmg_export.bench import dropin, kernels
from cmg_export.soak import __main__ as soak
from cmg_runtime.backends import BACKENDS
from engine_folder import shared_engine_folder

Capture = pytest.CaptureFixture[str]
WRONG = (
    (bench, "--backends torch tensorflow", f"'tensorflow'; expected {' or '.join(BACKENDS)}"),
    (bench, "--minutes nan", "--minutes is nan; expected more than 0"),
    (bench, "--checkpoint CMG_Ref/runs/g1_all/cmg_final.pt", "was not made from"),
    (bench, "--sections everything", "everything"),
    (bench, "--dropin.num-motions -1", "--dropin.num-motions is -1; expected at least 1"),
    (bench, "--dropin.seconds nan", "--dropin.seconds is nan; expected more than 0"),
    (bench, "--time-share.steps -20", "--time-share.steps is -20"),
    (bench, "--time-share.warm-up -1", "--time-share.warm-up is -1; expected at least 0"),
    (bench, "--time-share.iterations 1", "--time-share.iterations is 1; expected at least 2"),
    (bench, "--no-such-option", "no-such-option"),
    (kernels, "--rows 64 0", "--rows is 0"),
    (kernels, "--repeats 0", "--repeats is 0"),
    (soak, "--backend cuda", "unknown backend 'cuda'"),
    (soak, "--horizon 1", "--horizon is 1; expected at least 2"),
    (soak, "--steps 5", "--steps is 5; expected at least 20"),
    (soak, "--minutes 0", "--minutes is 0; expected more than 0"),
)


@pytest.mark.parametrize(("module", "wrong", "message"), WRONG)
def test_wrong_input_is_one_line(module: ModuleType, wrong: str, message: str, tmp_path: Path, capsys: Capture) -> None:
    folder, out = shared_engine_folder()[0], tmp_path / "out"
    given = ["--engine", str(folder), *([] if module is kernels else ["--device", "cpu", "--out", str(out)])]
    try:
        status = module.main([*given, *shlex.split(wrong)])
    except SystemExit as end:  # of what tyro refuses
        status = end.code
    said = capsys.readouterr()
    assert status == 2 and said.err.count("\n") == 1 and message in said.err and not said.out
    assert said.err.startswith(f"{module.MODULE}: ") and not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_kernels_alone_need_a_gpu(capsys: Capture) -> None:
    assert kernels.main(["--engine", str(shared_engine_folder()[0])]) == 2
    assert capsys.readouterr().err.strip() == f"{kernels.MODULE}: the kernels cannot run here: torch sees no GPU"


def test_what_were_commands_of_their_own_name_the_section(capsys: Capture) -> None:
    time_share = Path(dropin.__file__).parents[3] / "legged_gym" / "cmg_gym" / "time_share.py"
    for path, section in ((Path(dropin.__file__), "dropin"), (time_share, "time-share")):
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.count("\n") == 1
        assert said.endswith(f": use python -m cmg_export.bench --sections {section}\n")
