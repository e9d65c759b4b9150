#!/usr/bin/env bash
# Runs the runtime's and the drop-in tests on Python 3.8, against the runtime as pip installs it there.
# Usage: tests/py38.sh PYTHON [pytest arguments]; PYTHON is one that can export, for the engine folders of the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
exporter=$PWD/$1
shift
venv=.venv-py38
tests=(tests/test_{command_sampler,isaac_gym,motion_generator,motion_lib,motion_lib_parts,runtime_api,runtime_loading,runtime_steps}.py)

find_python() {
    local candidate
    for candidate in "${PYTHON38:-}" python3.8 "$(pyenv root 2>/dev/null || true)"/versions/3.8.*/bin/python; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 8))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

if ! cmp -s requirements/py38.txt $venv/installed.txt; then
    python=$(find_python)
    if [ -z "$python" ]; then
        echo "note: there is no Python 3.8 here (python3.8, pyenv's, or PYTHON38=/path/to/python); its tests were not run"
        exit 0
    fi
    echo "Making $venv with $("$python" --version): torch 2.4 and test tools (minutes)"
    rm -rf $venv
    "$python" -m venv $venv
    $venv/bin/pip install --quiet --disable-pip-version-check -r requirements/py38.txt
    cp requirements/py38.txt $venv/installed.txt
fi

pip=($venv/bin/pip --disable-pip-version-check)
"${pip[@]}" uninstall --quiet --yes cmg-runtime 2>/dev/null
before=$("${pip[@]}" list --format freeze)
rm -rf runtime/build # of an earlier build; and it is in nobody's way afterwards
"${pip[@]}" install --quiet ./runtime
rm -rf runtime/build
after=$("${pip[@]}" list --format freeze | grep -v '^cmg-runtime==')
if [ "$before" != "$after" ]; then
    echo "error: installing the runtime changed other packages:" >&2
    diff <(echo "$before") <(echo "$after") >&2 || true
    exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd "$scratch" && "$OLDPWD/$venv/bin/python" -c '
from CMG_Ref.utils.cmg_motion_generator import CMGMotionGenerator, CommandSmoother
from CMG_Ref.utils.command_sampler import CommandSampler
from cmg_runtime.motion_lib import MotionLibCMG, create_motion_lib_cmg
')

export CMG_TEST_SEED=${CMG_TEST_SEED:-$RANDOM} CMG_TEST_FOLDERS=$scratch/engines OMP_NUM_THREADS=1
PYTHONPATH=.:export:runtime:tests "$exporter" tests/made_before.py "$CMG_TEST_FOLDERS"
$venv/bin/python -m pytest -p no:cacheprovider -o 'pythonpath=. tests' "${tests[@]}" "$@"
