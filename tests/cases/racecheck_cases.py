"""Small kernels of two thread blocks that show what a racecheck sees of messages between thread blocks.

    compute-sanitizer --tool racecheck python tests/cases/racecheck_cases.py

All but one are right. What some versions said of each is in docs/performance.md.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from cmg_runtime.backends.fused import cluster
from cmg_runtime.device.nvrtc import CudaKernel

CASES = ("MESSAGE", "MESSAGE_READ_TOO_SOON", "OWN_VALUE", "BULK_COPY")
THREADS, FRAMES, SHARED_BYTES = 128, 3, 4096

KERNEL = """
struct Arguments { float *out; const char *in; };
enum Case { MESSAGE, MESSAGE_READ_TOO_SOON, OWN_VALUE, BULK_COPY };
constexpr int FULL = 0, DATA = 64, OWN = 1024, COPY = 2048, BYTES = 4 * THREADS;

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(THREADS, 1)
    small_kernel(const __grid_constant__ Arguments args) {
    extern __shared__ __align__(1024) char memory[];
    u32 shared = u32(__cvta_generic_to_shared(memory)), rank = cluster_rank(), other = rank ^ 1;
    u32 mine = threadIdx.x * 4, neighbours = (THREADS - 1 - threadIdx.x) * 4;
    if (threadIdx.x == 0) {
        barrier_init(shared + FULL, 1);
        barriers_are_there();
        if (CASE != BULK_COPY) barrier_expect(shared + FULL, BYTES);
    }
    store_shared(shared + OWN + mine, 0);
    __syncthreads();
    cluster_arrive();
    cluster_wait();
    float sum = 0.f;
    if (CASE == MESSAGE || CASE == MESSAGE_READ_TOO_SOON) {
        send(at_rank(shared + DATA + mine, other), float(threadIdx.x), at_rank(shared + FULL, other));
        if (CASE == MESSAGE) cluster_barrier_wait(shared + FULL, 0);
        sum = load_shared1(shared + DATA + neighbours);
        if (CASE == MESSAGE_READ_TOO_SOON) cluster_barrier_wait(shared + FULL, 0);
    }
    // A value of one's own is overwritten behind the answer of the other thread block to all that had read it.
    if (CASE == OWN_VALUE)
        for (int frame = 0; frame < FRAMES; ++frame) {
            if (rank == 1) {
                sum += load_shared1(shared + OWN + neighbours);
                send(at_rank(shared + DATA + mine, 0), sum, at_rank(shared + FULL, 0));
            }
            cluster_barrier_wait(shared + FULL, frame & 1);
            float value = load_shared1(shared + DATA + neighbours);
            if (threadIdx.x == 0) barrier_expect(shared + FULL, BYTES);
            if (rank == 1) store_shared(shared + OWN + mine, __float_as_uint(value + 1.f));
            __syncthreads();
            if (rank == 0) send(at_rank(shared + DATA + mine, 1), value, at_rank(shared + FULL, 1));
        }
    if (CASE == BULK_COPY)
        for (int frame = 0; frame < FRAMES; ++frame) {
            if (threadIdx.x == 0) {
                barrier_expect(shared + FULL, BYTES);
                copy_from_global(shared + COPY, args.in, BYTES, shared + FULL);
            }
            barrier_wait(shared + FULL, frame & 1);
            sum += load_shared1(shared + COPY + neighbours);
            __syncthreads();
        }
    args.out[rank * THREADS + threadIdx.x] = sum;
    cluster_arrive();
    cluster_wait();
}
"""


class Arguments(ctypes.Structure):
    _fields_ = [("out", ctypes.c_void_p), ("source", ctypes.c_void_p)]


def program(case: str) -> tuple[str, list[str]]:
    """The source for a case, and the options that it is compiled with."""
    header = (Path(cluster.__file__).parent / "hopper.cuh").read_text()
    sizes = {"CASE": case, "THREADS": THREADS, "FRAMES": FRAMES}
    return header + KERNEL, ["-arch=sm_90a", "-std=c++17", "-lineinfo", *(f"-D{key}={sizes[key]}" for key in sizes)]


def main() -> None:
    device = torch.device("cuda")
    out, source = torch.zeros(2, THREADS, device=device), torch.ones(THREADS, device=device)
    for case in CASES:
        kernel = CudaKernel(program(case)[0], "small_kernel", program(case)[1], SHARED_BYTES, device)
        arguments = Arguments(out.data_ptr(), source.data_ptr())
        kernel.launch(2, THREADS, arguments, torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()
        print(f"{case}: {float(out.sum()):g}", flush=True)


if __name__ == "__main__":
    main()
