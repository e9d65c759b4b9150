#!/usr/bin/env bash
# Installs the runtime into a virtual environment, as pip installs it for a user, and runs its own and the drop-in tests.
# Usage: tests/runtime_in.sh VENV EXPORTER [pytest arguments]
# VENV has torch, numpy, pytest and perhaps onnxruntime; EXPORTER is a Python that can export, for the tests' engine
# folders. They are made anew unless CMG_TEST_FOLDERS names some that were made with the seed in CMG_TEST_SEED.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$(realpath "$1")
exporter=$2
shift 2
tests=(tests/runtime/motion/test_{command_sampler,compat,compat_golden,creation,isaac_gym,motion_generator,motion_lib,motion_lib_parts,realtime}.py
    tests/runtime/loading/test_runtime_loading.py tests/runtime/window/test_runtime_{api,steps}.py)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# A copy, so that a build leaves nothing in the sources. The drop-in package is taken from beside the runtime.
mkdir -p "$scratch/source/CMG_Ref"
cp -rL CMG_Ref/utils "$scratch/source/CMG_Ref/utils"
cp -rL runtime "$scratch/source/runtime"
rm -rf "$scratch"/source/runtime/{build,*.egg-info}

pip=("$venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" uninstall --quiet --yes cmg-runtime 2>/dev/null
before=$("${pip[@]}" list --format freeze)
"${pip[@]}" install --quiet "$scratch/source/runtime"
after=$("${pip[@]}" list --format freeze | grep -v '^cmg-runtime==')
if [ "$before" != "$after" ]; then
    echo "error: installing the runtime changed other packages:" >&2
    diff <(echo "$before") <(echo "$after") >&2 || true
    exit 1
fi

(cd "$scratch" && "$venv/bin/python" -c '
from CMG_Ref.utils.cmg_motion_generator import CMGMotionGenerator, CommandSmoother
from CMG_Ref.utils.command_sampler import CommandSampler
from cmg_runtime.motion_lib import MotionLibCMG, create_motion_lib_cmg
')

export CMG_TEST_SEED=${CMG_TEST_SEED:-$RANDOM} OMP_NUM_THREADS=1
if [ -z "${CMG_TEST_FOLDERS:-}" ]; then
    PYTHONPATH=.:export:runtime:tests/cases "$exporter" tests/cases/made_before.py "$scratch/engines"
    export CMG_TEST_FOLDERS=$scratch/engines
fi
"$venv/bin/python" -m pytest -p no:cacheprovider -o 'pythonpath=. tests/cases' "${tests[@]}" "$@"
