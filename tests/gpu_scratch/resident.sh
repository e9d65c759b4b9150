#!/bin/bash
# One run of some 90 s; carry build/sanitizer and engines/g1_neutral. OUT is where it writes.
export PYTHONPATH=.:export:legged_gym:legged_gym/isaacgym_warp:runtime:tests:tests/cases CMG_TEST_SEED=3 XDG_CACHE_HOME=$OUT/cache
PY=${PY:-python}
timeout 60 $PY tests/gpu_scratch/resident.py 2>&1 | tee $OUT/resident.txt
SANITIZER=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -1)
chmod +x build/sanitizer/nvidia/cu13/bin/* 2>/dev/null
SANITIZER=${SANITIZER:-build/sanitizer/nvidia/cu13/bin/compute-sanitizer}
echo "sanitizer: $SANITIZER"
for tool in memcheck racecheck; do
    timeout 40 $SANITIZER --tool $tool --kernel-name kernel_substring=generate_frames $PY tests/gpu_scratch/resident.py tiny 2>&1 | tail -12 | tee $OUT/$tool.txt
done
timeout 75 $PY tests/gpu_scratch/resident.py engine 2>&1 | tail -8 | tee $OUT/engine.txt
