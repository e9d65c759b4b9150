"""What the documents show can be typed in: Python and shell lines run, as they stand there and in their order.

A block of Python that is not run has a line above it: `<!-- not run: why -->`, `<!-- from path -->` where it is another
file's text, `<!-- file name -->` where the page tells to save it. Shell lines that are not run are in NOT_RUN.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bare_checkout import bare_checkout, make, needs_make
from cmg_runtime.folder.manifest import read_manifest
from documents import DOCUMENTS, ROOT, Block, blocks, checkout, other_words, page_name, run_python_text, run_shell
from gym_case import deployable_engine

NOT_RUN = {
    "takes minutes, and the tests themselves cannot be a part of them": """
        make test
        make engine test-fast
        make test-fast
        make test JOBS=0 ARGS=tests/runtime/window/test_guard.py
        make test JOBS=0 ARGS="tests/runtime/window/test_guard.py -k bank"
        make test ARGS=tests/export
        make lint
        make test-py38
        make test-matrix UV=uv
        make fuzz SECONDS=300
    """,
    "takes half a minute and more; test_build builds smaller ones, test_parity measures them": """
        make engine
        python -m cmg_export.parity engines/g1_all CMG_Ref/runs/g1_all/cmg_final.pt --per-joint --seed 1
    """,
    "walks, draws or measures for half a minute and more, or until it is ended; tests/gym does so for a second": """
        make play
        make drive
        make sim2sim
        make evaluate ARGS='--episodes 8 --pushes'
        python -m CMG_Ref.eval_cmg CMG_Ref/runs/g1_all/cmg_final.pt
        make play CKPT=CMG_Ref/runs/g1_neutral/cmg_final.pt
        make play CKPT=CMG_Ref/runs/g1_neutral/cmg_final.pt ARGS='--commands 0.8 0 0 0.8 0 0.6 --seconds 5'
        make drive CKPT=CMG_Ref/runs/g1_neutral/cmg_final.pt
        make evaluate CKPT=CMG_Ref/runs/g1_neutral/cmg_final.pt ARGS='--episodes 16'
        python -m cmg_gym.latency
    """,
    "trains, or takes a training's run; tests/gym trains for two iterations": """
        make train
        make train ARGS=--no-captured
        make train ARGS='--start-from legged_gym/policies/g1_neutral --begin-at 400'
        make train ITERATIONS=1500 ARGS='--start-from legged_gym/policies/g1_neutral --begin-at 500'
        make train NUM_ENVS=2048 BACKEND=torch ITERATIONS=550 GPUS=2
        make train RESUME=1
        make evaluate POLICY=logs/rsl_rl/cmg_residual_g1/RUN
        make play POLICY=logs/rsl_rl/cmg_residual_g1/RUN
        make sim2sim POLICY=logs/rsl_rl/cmg_residual_g1/RUN
        train CMG-Residual-Flat-Unitree-G1 --env.scene.num-envs 4096 --env.commands.reference.cmg-backend torch
        play CMG-Residual-Flat-Unitree-G1 --checkpoint-file logs/rsl_rl/cmg_residual_g1/RUN/model_549.pt
        tensorboard --logdir logs/rsl_rl
        python -m cmg_gym.curves one=logs/one/cmg_residual_g1 two=logs/two/cmg_residual_g1
        python -m cmg_gym.train --gpus 2 --num-envs 4096 --iterations 35 --seed 42 --logs logs/two
        python -m cmg_gym.train --gpus 1 --num-envs 4096 --iterations 35 --seed 42 --logs logs/one
        python -m cmg_gym.train --engine engines/go1
        python -m cmg_gym.train --engine engines/go1 --gpus 0 --num-envs 8 --iterations 2 --backend torch
        python -m cmg_gym.evaluate --engine engines/go1 --policy logs/rsl_rl/cmg_residual_go1/RUN
        python -m cmg_gym.play --engine engines/go1 --policy logs/rsl_rl/cmg_residual_go1/RUN
    """,
    "takes clips that are not part of the project; docs/formats.md has the same commands for a clip of its own": """
        python -m CMG_Ref.dataloader.dataset CLIPS --out cmg_training_data.pt
        python -m CMG_Ref.train --data cmg_training_data.pt --out CMG_Ref/runs/mine
        python -m CMG_Ref.make_bank CMG_Ref/runs/mine/cmg_final.pt
        python -m CMG_Ref.eval_cmg CMG_Ref/runs/mine/cmg_final.pt --clips CLIPS
        python -m CMG_Ref.dataloader.dataset CLIPS --out data.pt --num-sequences 6000 --exclude neutral_side_run
        python -m CMG_Ref.train --data data.pt --out RUN --phases 3000 1 3000 2 5000 4 7000 8 10000 16 12266 32
        python -m CMG_Ref.make_bank RUN/cmg_final.pt
        python -m CMG_Ref.eval_cmg CMG_Ref/runs/g1_neutral/cmg_final.pt --clips CLIPS
    """,
    "needs the network and recordings of people; test_retarget makes its own": """
        pip install mink==1.3.0
        python -m CMG_Ref.dataloader.retarget WALKS/*.bvh --out CLIPS
    """,
    "needs machines with GPUs; test_gym_launch starts two nodes on this one": """
        .venv/bin/torchrun --nnodes 2 --nproc-per-node 4 --node-rank 0 --master-addr HOST \\
            --master-port 29500 -m -- cmg_gym.train --num-envs 4096 --iterations 3000 --logs /shared/logs
    """,
    "needs a GPU": """
        compute-sanitizer --tool memcheck --kernel-name kernel_substring=generate_frames python -m pytest \\
            -q -m gpu tests/runtime/backends/test_cluster_kernel.py -k "one_by_one and 19-2-resident"
        make verify BACKEND=trt
        python -m pytest -m gpu -n 5 --dist loadgroup
        python -m pytest -m gpu tests/runtime/backends
        ncu --set full --kernel-name regex:middle python -m cmg_export.bench.kernels
        nsys profile --cuda-graph-trace node python your_loop.py
        python -m cmg_export.bench --sections time-share --num-envs 4096
    """,
    "needs TensorRT for RTX, which does not install everywhere: test_tensorrt_build": """
        python -m cmg_export.plan_layers engines/g1_all/cmg_fp16.onnx
    """,
    "needs the network, a clone of TWIST, legged_gym or rsl_rl, and a GPU": """
        pip install ./legged_gym/isaacgym_warp
        pip install --no-deps -e path/to/rsl_rl -e path/to/legged_gym
        pip install matplotlib tensorboard
        pip install ./runtime ./legged_gym/isaacgym_warp
        git clone https://github.com/YanjieZe/TWIST ../TWIST
        pip install --no-deps -e ../TWIST/rsl_rl -e ../TWIST/legged_gym -e ../TWIST/pose
        pip install pyfqmr pydelatin opencv-python termcolor matplotlib tqdm wandb tensorboard
        export CMG_ENGINES=$PWD/engines WANDB_MODE=disabled
        patch -d ../TWIST -p1 < examples/twist.patch
        cd ../TWIST && bash train_teacher.sh my_teacher cuda:0
        python -m examples.train_twist --twist ../TWIST
        python -m examples.train_twist --twist ../TWIST --iterations 300
        python -m examples.train_twist --twist ../TWIST --play
        python -m examples.train_legged_gym --legged-gym ../legged_gym --rsl-rl ../rsl_rl
    """,
}
"""Why -> the shell lines that no test here runs as they stand. Their options and variables are checked all the same."""

LINES_NOT_RUN = [
    re.sub(r"\s*\\\s+", " ", line).strip()
    for lines in NOT_RUN.values()
    for line in re.split(r"(?<!\\)\n", lines.strip())
]

OTHER_WORDS = {"--phases 1500 1 1000 4 500 16": "--phases 20 1 5 4"}
"""What is written otherwise because it would take minutes."""

WITHOUT_A_GPU = {
    '"cuda"': '"cpu"', "4096": "64", "num_frames=500": "num_frames=20",
    "CommandSampler(64)": 'CommandSampler(64, "cpu")', 'mode="realtime"': 'mode="realtime", device="cpu"',
}  # fmt: skip
"""What is written otherwise in Python where there is no GPU."""


class StandIn:
    """What docs/deploy.md calls a robot: one that stands still for five steps, whatever it is sent."""

    def __init__(self) -> None:
        self.steps = iter([True] * 5)
        self.gyroscope, self.gravity = (lambda: np.zeros(3)), (lambda: np.array([0.0, 0.0, -1.0]))
        self.positions = self.velocities = lambda names: np.zeros(len(names))
        self.sent: list[tuple[object, ...]] = []

    @property
    def on(self) -> bool:
        return next(self.steps, False)

    def send(self, *what: object) -> None:
        self.sent.append(what)


def shown(page: str) -> list[tuple[Block, list[str]]]:
    """A page's blocks that something is done with, and of shell's the lines to run."""
    found = [(block, [line for line in block.commands if line not in LINES_NOT_RUN]) for block in blocks(page)]
    return [
        (block, lines)
        for block, lines in found
        if (block.language == "sh" and lines)
        or (block.language == "python" and not block.remark.startswith(("not run:", "from ")))
    ]


PAGES = [page for page in map(page_name, DOCUMENTS) if shown(page)]


def follow(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Do what a page shows, block after block, in a clone in ``folder``."""
    clone = checkout(folder / "clone", deployable_engine())
    monkeypatch.chdir(clone)
    names: dict[str, object] = {"__name__": "__main__", "robot": StandIn(), "joystick": lambda: (0.5, 0.0, 0.0)}
    here = OTHER_WORDS if torch.cuda.is_available() else {**OTHER_WORDS, **WITHOUT_A_GPU}
    for block, lines in shown(page):
        if block.language == "sh":
            run_shell([other_words(line, OTHER_WORDS) for line in lines], clone)
        elif block.remark.startswith("file "):
            Path(block.remark.split()[1]).write_text(block.text)
        else:
            run_python_text(other_words(block.text, here), names)
    return clone


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("make") is None and any(line.startswith("make ") for _, lines in shown(page) for line in lines):
        pytest.skip("make is not installed")
    clone = follow(page, tmp_path, monkeypatch)
    if page == "docs/formats.md":  # a checkpoint and a clip by hand, then compiled and trained
        manifest = read_manifest(clone / "engines" / "by_hand")
        assert (manifest.name, manifest.sizes.num_joints, manifest.sizes.num_experts) == ("by_hand", 29, 2)
        assert manifest.command_range.max == pytest.approx((1.0, 0.3, 0.6))
        assert {path.name for path in (clone / "trained").glob("*.*")} >= {"cmg_final.pt", "bank.npz"}


def test_every_block_is_run_or_says_what_it_is() -> None:
    for block in (block for path in DOCUMENTS for block in blocks(page_name(path))):
        assert block.language in ("python", "sh", "diff", "text"), block
        if block.language == "text":
            assert not re.search(r"^(?:[A-Z_]+=\S+ )*(?:make|pip|\S*python3?) ", block.text, re.MULTILINE), block
        if block.remark.startswith("from "):
            assert block.text in (ROOT / block.remark.split()[1]).read_text(), block
        else:
            assert re.fullmatch(r"(?:not run: .{15,}|file \S+\.py)?", block.remark), block


def test_what_is_not_run_stands_in_a_document() -> None:
    lines = {line for path in DOCUMENTS for block in blocks(page_name(path)) for line in block.commands}
    assert [line for line in LINES_NOT_RUN if line not in lines] == []
    assert len({*LINES_NOT_RUN}) == len(LINES_NOT_RUN)


def commands() -> set[str]:
    """Command lines of ours in shell blocks, and those within a sentence that are whole: `make bench ARGS=--quick`.

    docs/reliability.md has misspelt ones within sentences, to say what happens then.
    """
    found = set()
    for path in DOCUMENTS:
        found |= {line for block in blocks(page_name(path)) if block.language == "sh" for line in block.commands}
        if path.name != "reliability.md":
            within = re.findall(r"`((?:make|python -m) [a-z][^`\n]*)`", path.read_text())
            found |= {line for line in within if not re.search(r"=(?: |$)|\.\.\.|\$", line)}
    return found


@needs_make
def test_what_is_made_is_a_target_that_takes_these_variables(tmp_path: Path) -> None:
    clone = bare_checkout(tmp_path)
    for folder in ("CMG_Ref/runs/g1_all", "path/to"):
        (clone / folder).mkdir(parents=True)
    given = [shlex.split(line)[1:] for line in commands() if line.startswith("make ")]
    assert len(given) > 20
    for arguments in given:
        done = make(clone, "--dry-run", *arguments)
        assert done.returncode == 0, (arguments, done.stderr)


OTHERS = ("pytest", "build")
"""Modules whose options are not ours."""


@pytest.mark.slow
def test_what_is_run_as_a_module_has_these_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    helps: dict[str, str] = {}
    for line in commands():
        words = shlex.split(line)
        if words[:2] == ["python", "-m"] and words[2] not in OTHERS and not words[2].startswith("tests."):
            module = words[2]
            helps[module] = helps.get(module) or _help(module, monkeypatch)
            for word in words[3:]:
                option = re.match(r"--[a-z][\w.-]*", word)
                assert not option or option[0] == "--help" or option[0] in helps[module], line
    assert len(helps) > 10


def _help(module: str, monkeypatch: pytest.MonkeyPatch) -> str:
    found = importlib.import_module(module)
    main = importlib.import_module(f"{module}.__main__").main if hasattr(found, "__path__") else found.main
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        main()
    return said.getvalue()
