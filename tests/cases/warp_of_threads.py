"""CUDA code of one warp run by 32 threads of a CPU: shuffles and waits are barriers, shared memory is static."""

from __future__ import annotations

import subprocess
from pathlib import Path

PROGRAM = r"""
#include <barrier>
#include <cmath>
#include <cstdio>
#include <thread>
#include <vector>
struct Matrix { float *p; int stride; };
struct Vector { float *p; };
namespace wp {
float *address(Matrix a, int i, int j) { return a.p + i * a.stride + j; }
float *address(Vector a, int i) { return a.p + i; }
}
struct float4 { float x, y, z, w; };
struct Index { int x; };
thread_local Index threadIdx;
std::barrier<> barrier(32);
float slots[32];
void __syncwarp() { barrier.arrive_and_wait(); }
float __shfl_sync(unsigned, float value, int source) {
    slots[threadIdx.x] = value;
    barrier.arrive_and_wait();
    const float result = slots[source];
    barrier.arrive_and_wait();
    return result;
}
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __CUDA_ARCH__ 900
void by_a_warp(Matrix h, Vector g, Vector x) { SNIPPET }
#undef __CUDA_ARCH__
void on_a_cpu(Matrix h, Vector g, Vector x) { SNIPPET }
int main() {
    int n, stride;
    if (scanf("%d %d", &n, &stride) != 2) return 1;
    std::vector<float> h(n * stride), g(n), x(n), y(n);
    for (float &value : h) if (scanf("%f", &value) != 1) return 1;
    for (float &value : g) if (scanf("%f", &value) != 1) return 1;
    std::vector<std::thread> threads;
    for (int lane = 0; lane < 32; ++lane)
        threads.emplace_back([&, lane] { threadIdx.x = lane; by_a_warp({h.data(), stride}, {g.data()}, {x.data()}); });
    for (auto &thread : threads) thread.join();
    on_a_cpu({h.data(), stride}, {g.data()}, {y.data()});
    for (int i = 0; i < n; ++i) printf("%.9g %.9g\n", x[i], y[i]);
}
"""


def build(snippet: str, folder: Path) -> Path:
    """Compile ``snippet``, a body of ``(h, g, x)``, into a program that reads n, a stride, h and g, and prints x as a
    warp and as a CPU find it."""
    source, program = folder / "warp.cpp", folder / "warp"
    source.write_text(PROGRAM.replace("SNIPPET", snippet))
    subprocess.run(["g++", "-std=c++20", "-O1", "-pthread", "-o", program, source], check=True)
    return program
