// Rows of new frames: motion states, root motion (of one frame, which a step appends), kinematics. A thread block has 32
// environments of one frame, whose rows it makes in shared memory and writes as they lie in the window.
//
// A lane is an environment. Each warp walks paths from the root to the end of a limb, with the pose in registers; the
// path's constants are the same for all lanes, and lie in shared memory too. The last warp has the root.
//
// Compiled at run time with -DD= (floats of a motion state), -DW= (of a row), -DUSED= (of them in use), -DROOT= (first of
// the root's 13), -DPATHS=, -DSTEPS= and -DSOLES= (of the tables) and -DWALKERS= (warps): see frame_rows.py, which also
// declares Arguments; so are SHARED_BYTES and THREADS.

constexpr int WARPS = WALKERS + 1;
constexpr int ROW = W + 1;                    // odd, so that 32 rows' floats of one column lie in 32 banks
constexpr int STEP = 20;                      // floats of a step: see frame_rows.py
constexpr int SOLE_TABLE = STEPS * STEP, PATH_TABLE = SOLE_TABLE + SOLES * 4, TABLE = (PATH_TABLE + PATHS + 1 + 3) / 4 * 4;
constexpr int LOWEST = TABLE, ROWS = LOWEST + PATHS * 32, SHARED_FLOATS = ROWS + 32 * ROW;
static_assert(SHARED_FLOATS * 4 == SHARED_BYTES && 32 * WARPS == THREADS && W % 4 == 0, "frame_rows.py has other sizes");

typedef long long i64;

// Sine and cosine, to 3e-7 up to 8000 rad: as in cmg_runtime.window.triton.body_walk, where it says why.
__device__ __forceinline__ void sin_cos(float angle, float &s, float &c) {
    float quarter = floorf(angle * 0.6366197723675814f + 0.5f);
    float r = ((angle - quarter * 1.5703125f) - quarter * 4.837512969970703125e-4f) - quarter * 7.549789948768648e-8f;
    r = r > 1.f ? 1.f : r < -1.f ? -1.f : r;
    float z = r * r;
    float sin = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f - z * 1.9515295891e-4f));
    float cos = 1.f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
    float half = quarter * 0.5f;
    bool odd = half != floorf(half);
    s = odd ? cos : sin, c = odd ? sin : cos;
    float quarters = quarter - 4.f * floorf(quarter * 0.25f);  // 0 to 3, also where an integer would overflow
    if (quarters >= 2.f) s = -s;
    if (quarters == 1.f || quarters == 2.f) c = -c;
}

__device__ __forceinline__ void turn(float x, float y, float yaw, float &to_x, float &to_y) {
    float s, c;
    sin_cos(yaw, s, c);
    to_x = c * x - s * y, to_y = s * x + c * y;
}

// Writes the bodies of one path into `row`, which has the joints' angles, and returns its soles' lowest point, m.
__device__ __forceinline__ float walk(const float *tables, int path, float *row) {
    const int *paths = reinterpret_cast<const int *>(tables + PATH_TABLE);
    float lowest = __int_as_float(0x7f800000);
    float xx = 1.f, xy = 0.f, xz = 0.f, yx = 0.f, yy = 1.f, yz = 0.f, zx = 0.f, zy = 0.f, zz = 1.f;
    float px = 0.f, py = 0.f, pz = 0.f;
#pragma unroll 2
    for (int step = paths[path]; step < paths[path + 1]; ++step) {
        const float4 *constants = reinterpret_cast<const float4 *>(tables + step * STEP);
        float4 a = constants[0], b = constants[1], d = constants[2], e = constants[3];
        int4 where = reinterpret_cast<const int4 *>(constants)[4];
        int joint = __float_as_int(e.w);
        float s, c, ox = d.y, oy = d.z, oz = d.w;
        sin_cos(joint >= 0 ? row[joint] : 0.f, s, c);
        px += xx * ox + xy * oy + xz * oz;
        py += yx * ox + yy * oy + yz * oz;
        pz += zx * ox + zy * oy + zz * oz;
        float ax = xx * a.x + xy * a.w + xz * b.z, ay = xx * a.y + xy * b.x + xz * b.w;
        float bx = yx * a.x + yy * a.w + yz * b.z, by = yx * a.y + yy * b.x + yz * b.w;
        float dx = zx * a.x + zy * a.w + zz * b.z, dy = zx * a.y + zy * b.x + zz * b.w;
        xz = xx * a.z + xy * b.y + xz * d.x;
        yz = yx * a.z + yy * b.y + yz * d.x;
        zz = zx * a.z + zy * b.y + zz * d.x;
        xx = c * ax + s * ay, xy = c * ay - s * ax;
        yx = c * bx + s * by, yy = c * by - s * bx;
        zx = c * dx + s * dy, zy = c * dy - s * dx;
        if (where.x >= 0) {
            row[where.x] = px + xx * e.x + xy * e.y + xz * e.z;
            row[where.x + 1] = py + yx * e.x + yy * e.y + yz * e.z;
            row[where.x + 2] = pz + zx * e.x + zy * e.y + zz * e.z;
        }
#pragma unroll 4
        for (int sole = where.y; sole < where.z; ++sole) {
            float4 p = reinterpret_cast<const float4 *>(tables + SOLE_TABLE)[sole];
            lowest = fminf(lowest, pz + zx * p.x + zy * p.y + zz * p.z - p.w);
        }
    }
    return lowest;
}

__device__ __forceinline__ float lerp(float begin, float end, float share) {  // torch's: exactly the end at 1
    float way = end - begin;
    return share < 0.5f ? begin + share * way : end - way * (1.f - share);
}

// All of an environment's root but its height and vertical velocity, into its row; and what else moves on with a step.
__device__ __forceinline__ void append_root(const Arguments &args, int env, float *row) {
    float *command = args.next_command + i64(env) * 3, *root = args.root + i64(env) * 4;
    float vx = command[0], vy = command[1], rate = command[2], x = root[0], y = root[1], yaw = root[3];
    float elapsed = args.ramp_elapsed[env] + 1.f;
    i64 number = args.number[env] + 1;
    float begin[3], end[3];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        end[i] = args.ramp_target[i64(env) * 3 + i];
        begin[i] = args.ramp ? args.ramp_initial[i64(env) * 3 + i] : 0.f;
    }
    float half = rate * args.dt / 2.f, sine, cosine, dx, dy;
    sin_cos(half, sine, cosine);
    // sin(half) / half, whose series is exact in float32 for small angles
    float chord = args.dt * (fabsf(half) < 1e-3f ? 1.f - half * half / 6.f : sine / half);
    yaw += rate * args.dt;
    turn(vx * chord, vy * chord, yaw - half, dx, dy);
    x += dx, y += dy;
    yaw -= 6.283185307179586f * floorf(yaw / 6.283185307179586f + 0.5f);
    float world_vx, world_vy;
    turn(vx, vy, yaw, world_vx, world_vy);
    sin_cos(yaw / 2.f, sine, cosine);
    float *to = row + ROOT;
    to[0] = x, to[1] = y, to[3] = cosine, to[4] = 0.f, to[5] = 0.f, to[6] = sine;
    to[7] = world_vx, to[8] = world_vy, to[10] = 0.f, to[11] = 0.f, to[12] = rate;
    root[0] = x, root[1] = y, root[3] = yaw;
    args.ramp_elapsed[env] = elapsed;
    args.number[env] = number;
    float share = fminf((elapsed + float(args.horizon)) / args.ramp_frames, 1.f);
#pragma unroll
    for (int i = 0; i < 3; ++i) command[i] = args.ramp ? lerp(begin[i], end[i], share) : end[i];
}

extern "C" __global__ void __launch_bounds__(THREADS) write_frames(const __grid_constant__ Arguments args) {
    float *memory = shared_memory(), *lowest = memory + LOWEST, *rows = memory + ROWS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = threadIdx.x; i < TABLE / 4; i += THREADS)
        reinterpret_cast<float4 *>(memory)[i] = reinterpret_cast<const float4 *>(args.tables)[i];
    after_kernel_before();
    const bool append = args.ids == nullptr;
    const int blocks = (args.n + 31) / 32, frame = blockIdx.x / blocks, first = blockIdx.x % blocks * 32, env = first + lane;
    const bool known = env < args.n && (args.moving == nullptr || args.moving[env]);
    const unsigned all = __ballot_sync(~0u, known);
    // The row that is horizon frames from the head is the head's own.
    const i64 size = i64(args.horizon) * args.columns, head = known ? args.head[append ? env : args.ids[env]] : 0;
    i64 place = append ? head : head + i64(args.first + frame) * args.columns, behind = head + args.columns;
    if (place >= size) place -= size;
    if (behind >= size) behind -= size;

    constexpr int MOTION = (32 * D + THREADS - 1) / THREADS, MINE = (32 + WARPS - 1) / WARPS, WIDE = (D + 31) / 32;
    float motion[MOTION], current[MINE][WIDE];
    const float *motions = args.motions + i64(frame) * args.motion_pitch + i64(first) * D;
    const int count = (args.n - first < 32 ? args.n - first : 32) * D;
#pragma unroll
    for (int k = 0; k < MOTION; ++k) {
        int i = k * THREADS + threadIdx.x;
        motion[k] = i < count ? motions[i] : 0.f;
    }
    if (append) {  // the new current frames, on their way while bodies are walked
#pragma unroll
        for (int k = 0; k < MINE; ++k) {
            int row = k * WARPS + warp;
            const float *from = args.ring + __shfl_sync(~0u, behind, row & 31) * W;
#pragma unroll
            for (int wide = 0; wide < WIDE; ++wide) {
                int i = wide * 32 + lane;
                current[k][wide] = row < 32 && (all >> (row & 31) & 1) && i < D ? from[i] : 0.f;
            }
        }
    }
#pragma unroll
    for (int k = 0; k < MOTION; ++k) {
        int i = k * THREADS + threadIdx.x;
        if (i < 32 * D) rows[i / D * ROW + i % D] = motion[k];
        if (append && i < count && (all >> i / D & 1)) args.newest_motion[i64(first) * D + i] = motion[k];
    }
    __syncthreads();

    float *own = rows + lane * ROW;
    if (warp < WALKERS) {
        for (int path = warp; path < PATHS; path += WALKERS) lowest[path * 32 + lane] = walk(memory, path, own);
    } else if (append && known) {
        append_root(args, env, own);
    }
    if (append) {
#pragma unroll
        for (int k = 0; k < MINE; ++k)
#pragma unroll
            for (int wide = 0; wide < WIDE; ++wide) {
                int row = k * WARPS + warp, i = wide * 32 + lane;
                if (row < 32 && (all >> (row & 31) & 1) && i < D) args.current[i64(first + row) * D + i] = current[k][wide];
            }
    }
    __syncthreads();

    if (warp == 0 && known) {
        float height = lowest[lane];
        for (int path = 1; path < PATHS; ++path) height = fminf(height, lowest[path * 32 + lane]);
        if (append) {
            float *root = args.root + i64(env) * 4, z = args.ground[env] - height;
            own[ROOT + 2] = z, own[ROOT + 9] = (z - root[2]) * args.fps;
            root[2] = z;
            args.head[env] = behind;
        } else {
            args.heights[i64(frame) * args.n + env] = -height;
        }
    }
    __syncthreads();

#pragma unroll
    for (int k = 0; k < MINE; ++k) {
        int row = k * WARPS + warp;
        float *to = args.ring + __shfl_sync(~0u, place, row & 31) * W;
        if (row < 32 && (all >> (row & 31) & 1))
            for (int i = lane; i < USED; i += 32)
                if (append || i < ROOT || i >= ROOT + 13) to[i] = rows[row * ROW + i];
    }
}
