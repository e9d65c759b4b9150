"""H x = -g for a symmetric matrix of up to 40 rows, by a warp."""

# pyright: reportCallIssue=false, reportInvalidTypeForm=false

import functools
from typing import Any

import warp as wp

MOST = 40
"""Rows: each thread has one of the first 32 in registers, and an element of each of the others."""

SNIPPET = """
    constexpr int N = {n}, W = N < 32 ? N : 32, R = N - W, STRIDE = N | 1;
#if defined(__CUDA_ARCH__)
    constexpr int SOME = R > 0 ? R : 1;
    __shared__ float rows[N * STRIDE];  // an odd stride, so that threads that read a column do not wait for each other
    __shared__ __align__(16) float column[32];
    const int lane = threadIdx.x;
    const bool mine = lane < W;
    for (int i = 0; i < N; ++i) {{
        for (int j = lane; j < N; j += 32) {{
            if (j >= i) {{
                const float value = *wp::address(h, i, j);
                rows[i * STRIDE + j] = value;
                rows[j * STRIDE + i] = value;
            }}
        }}
    }}
    __syncwarp();
    float a[W];  // this thread's row
    // Its element of each row behind; their corner and right side, of all threads alike.
    float e[SOME], c[SOME][SOME], z[SOME];
#pragma unroll
    for (int j = 0; j < W; ++j) a[j] = mine ? rows[lane * STRIDE + j] : 0.0f;
#pragma unroll
    for (int r = 0; r < R; ++r) {{
        e[r] = rows[(32 + r) * STRIDE + lane];
        z[r] = *wp::address(g, 32 + r);
#pragma unroll
        for (int s = 0; s < R; ++s) c[r][s] = rows[(32 + r) * STRIDE + 32 + s];
    }}
    // Cholesky's factor in place, column by column, and the forward substitution along with it.
    float y = mine ? *wp::address(g, lane) : 0.0f, my_inverse = 0.0f;
#pragma unroll
    for (int k = 0; k < W; ++k) {{
        const float inverse = 1.0f / sqrtf(__shfl_sync(0xffffffffu, a[k], k));
        const float solved = __shfl_sync(0xffffffffu, y, k) * inverse;
        a[k] *= inverse;
        column[lane] = a[k];
        __syncwarp();
        if (lane > k) y -= a[k] * solved;
        if (lane == k) {{
            y = solved;
            my_inverse = inverse;
        }}
        float behind[SOME];
#pragma unroll
        for (int r = 0; r < R; ++r) {{
            behind[r] = __shfl_sync(0xffffffffu, e[r], k) * inverse;
            if (lane > k) e[r] -= a[k] * behind[r];
            if (lane == k) e[r] = behind[r];
            z[r] -= behind[r] * solved;
#pragma unroll
            for (int s = 0; s <= r; ++s) c[r][s] -= behind[r] * behind[s];
        }}
#pragma unroll
        for (int four = (k + 1) / 4; four < (W + 3) / 4; ++four) {{
            const float4 read = reinterpret_cast<const float4*>(column)[four];
            const float factors[4] = {{read.x, read.y, read.z, read.w}};
#pragma unroll
            for (int j = 4 * four; j < 4 * four + 4; ++j) {{
                if (j > k && j < W) a[j] -= a[k] * factors[j - 4 * four];
            }}
        }}
        __syncwarp();
    }}
    // The corner, by each thread for itself, and back.
#pragma unroll
    for (int k = 0; k < R; ++k) {{
        c[k][k] = 1.0f / sqrtf(c[k][k]);
        z[k] *= c[k][k];
#pragma unroll
        for (int r = k + 1; r < R; ++r) {{
            c[r][k] *= c[k][k];
            z[r] -= c[r][k] * z[k];
#pragma unroll
            for (int s = k + 1; s <= r; ++s) c[r][s] -= c[r][k] * c[s][k];
        }}
    }}
#pragma unroll
    for (int r = R - 1; r >= 0; --r) {{
        z[r] *= c[r][r];
#pragma unroll
        for (int s = 0; s < r; ++s) z[s] -= c[r][s] * z[r];
        y -= e[r] * z[r];
    }}
    if (mine) {{
#pragma unroll
        for (int j = 0; j < W; ++j) rows[lane * STRIDE + j] = a[j];
    }}
    __syncwarp();
    for (int i = W - 1; i >= 0; --i) {{
        const float solved = __shfl_sync(0xffffffffu, y * my_inverse, i);
        if (lane < i) y -= rows[i * STRIDE + lane] * solved;
        if (lane == i) y = solved;
    }}
    if (mine) *wp::address(x, lane) = -y;
#pragma unroll
    for (int r = 0; r < R; ++r) {{
        if (lane == r) *wp::address(x, 32 + r) = -z[r];
    }}
    __syncwarp();
#else
    float rows[N * STRIDE];
    for (int i = 0; i < N; ++i) {{
        for (int j = 0; j <= i; ++j) {{
            float sum = *wp::address(h, j, i);
            for (int k = 0; k < j; ++k) sum -= rows[i * STRIDE + k] * rows[j * STRIDE + k];
            rows[i * STRIDE + j] = i == j ? sqrt(sum) : sum / rows[j * STRIDE + j];
        }}
    }}
    for (int i = 0; i < N; ++i) {{
        float sum = -*wp::address(g, i);
        for (int k = 0; k < i; ++k) sum -= rows[i * STRIDE + k] * *wp::address(x, k);
        *wp::address(x, i) = sum / rows[i * STRIDE + i];
    }}
    for (int i = N - 1; i >= 0; --i) {{
        float sum = *wp::address(x, i);
        for (int k = i + 1; k < N; ++k) sum -= rows[k * STRIDE + i] * *wp::address(x, k);
        *wp::address(x, i) = sum / rows[i * STRIDE + i];
    }}
#endif
"""


@functools.cache
def make_newton_step(n: int) -> Any:
    """A function of Warp's that a warp calls: ``x`` [n] solves ``h x = -g``, with the upper triangle of ``h`` [n, n].

    Raises:
        ValueError: ``n`` is more than :data:`MOST`.
    """
    if n > MOST:
        raise ValueError(f"{n} rows; expected at most {MOST}")

    @wp.func_native(snippet=SNIPPET.format(n=n))
    def newton_step(h: wp.array2d[float], g: wp.array[float], x: wp.array[float]): ...

    return newton_step
