#!/usr/bin/env bash
# Writes requirements/hashed/ from the lists beside it: each version with the hashes of all files that PyPI has of it.
# Usage: requirements/hash.sh [UV], after a list has changed. Needs uv (`pip install uv`) and the index.
set -euo pipefail
cd "$(dirname "$0")"
uv=${1:-uv}

# torch's build without CUDA (2.13.0+cpu, Python 3.11, Linux x86_64), which is not on PyPI.
cpu_torch=6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b

hashed() { # NAME SOURCE [options of uv]
    local name=$1 source=$2
    shift 2
    {
        echo "# Made by requirements/hash.sh from $source; do not edit."
        "$uv" pip compile --quiet --no-config --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
            "$@" -
    } >"hashed/$name.txt"
}

torch=$(grep '^torch==' engine.txt)
mkdir -p hashed
for name in engine test train kernels tensorrt-rtx tensorrt-lean fuzz; do
    hashed $name $name.txt --no-deps --no-emit-package torch <$name.txt
done
hashed torch engine.txt --no-deps <<<"$torch"
sed -i '$s/$/ \\/' hashed/torch.txt
echo "    --hash=sha256:$cpu_torch" >>hashed/torch.txt
# What torch's CUDA builds bring, less what engine.txt has already.
skipped=$(sed -n 's/^\([a-z][a-z0-9-]*\)==.*/--no-emit-package \1/p' engine.txt | sort -u)
hashed cuda engine.txt --constraint engine.txt $skipped <<<"$torch"
