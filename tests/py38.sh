#!/usr/bin/env bash
# Runs the runtime's and the drop-in tests on Python 3.8, against the runtime as pip installs it there.
# Usage: tests/py38.sh PYTHON [pytest arguments]; PYTHON is one that can export, for the engine folders of the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
exporter=$PWD/$1
shift
venv=.venv-py38

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

exec tests/runtime_in.sh $venv "$exporter" "$@"
