// The generator's network for few rows and many frames in one launch: the weights of a network lie on the multiprocessors
// of one cluster of 16 thread blocks, and stay there. A frame then only multiplies, and crosses the cluster four times.
//
// A cluster has ROWS = 8 or 16 rows. Products are written transposed: outputs are the matrix unit's rows and the batch its
// columns, so that few rows waste nothing, and a lane's operand from the weights never changes. The middle layer's, 128 KB
// a CTA, are kept in registers, all others in shared memory, both in the order of the matrix unit's fragments
// (cmg_runtime.backends.fused.resident_weights).
//
// The CTAs are a square of 4 x 4: CTA `rank` has inputs 128 (rank % 4).. and outputs 128 (rank / 4).. of the middle layer,
// and finishes 32 rank.. of them. One frame of it:
//
//   gate      its 32 hidden units -> partial logits, sent to all; their sum -> coefficients c, each warp a row or two
//   first     x W0 -> mix with c, ELU -> the 128 units of x1 that it needs itself. The three other CTAs of its column of the
//             square compute the same, while the logits are on their way: nothing of x1 crosses.
//   middle    x1 W1 -> mix -> its part of 128 units, sent to the four CTAs of its row of the square that finish them
//   last      sum of four parts, ELU -> 32 units of x2, times W2 -> mix -> its part of the result, sent to the row's owner
//   finish    CTA r owns row r: sum of 16 parts -> next motion state, checked and written; normalised it is the next
//             frame's x, sent to all
//
// What comes from other CTAs arrives at an mbarrier that counts bytes. Each of them is used once a frame, so its phase
// is the frame's number. No place is taken before it is free: all that is sent in a frame follows from the frame's x, x
// from the parts of all CTAs, and these each warp sends (or causes, by its part of the middle layer) behind its last read
// of what the frame before left. Only the parts of the result are read later, by the owner's first four warps, each of
// which then sends x to four CTAs; parts that come next need the logits of all of these.
//
// Compiled at run time with -DTILES= (1 or 2, of 8 rows), and with what it has in common with the code that launches it:
// see cluster.py. Declared in cluster_arguments.py are Guard and Arguments, EXPERTS, HIDDEN and LOG2E.

static_assert(HIDDEN == 512 && EXPERTS == 4 && (TILES == 1 || TILES == 2), "the kernel's tiles are written for these");
constexpr int C = 16, ROWS = 8 * TILES;
constexpr int FRAGMENT = 512;  // bytes of 16 outputs x 16 inputs, 16 a lane; the experts of 16 outputs follow each other

// Byte offsets in shared memory, weights first, as they lie behind the middle layer's in global memory.
constexpr int FIRST = 0;                              // [8 warps, 4 steps of inputs, 4 experts] fragments
constexpr int LAST = FIRST + 8 * 4 * 4 * FRAGMENT;    // [4 of 16 outputs, 2 steps, 4 experts] fragments
constexpr int GATE = LAST + 4 * 2 * 4 * FRAGMENT;     // [2 of 16 units, 4 steps] fragments
constexpr int GATE_OUT = GATE + 2 * 4 * FRAGMENT;     // [32 units, 4 experts] float
constexpr int BIAS = GATE_OUT + 32 * 16;              // [8 warps, 4 experts, 16] float, zeros in all but one CTA of a sum
constexpr int LAST_BIAS = BIAS + 8 * 4 * 64;          // [4, 4 experts, 16] float, the same
constexpr int WEIGHTS_BYTES = LAST_BIAS + 4 * 4 * 64;
constexpr int X_PITCH = 144;                          // 64 halves, and 16 bytes so that eight rows lie in different banks
constexpr int X = WEIGHTS_BYTES;                      // [ROWS] of X_PITCH
constexpr int X1 = X + ROWS * X_PITCH;                // [TILES, 128 units, 8 rows] half
constexpr int X2 = X1 + TILES * 2048;                 // [TILES, 32 units, 8 rows] half
constexpr int LOGITS = X2 + TILES * 512;              // [C, ROWS, 4] float
constexpr int MIXING = LOGITS + C * ROWS * 16;        // [ROWS, 4] float, the coefficients
constexpr int SUMS = MIXING + ROWS * 16;              // [4, TILES, 32 units, 8 rows] float
constexpr int PARTS = SUMS + 4 * TILES * 1024;        // [C, 64] float
constexpr int WEIGHTS_FULL = PARTS + C * 256, X_FULL = WEIGHTS_FULL + 8, LOGITS_FULL = X_FULL + 8;
constexpr int SUMS_FULL = LOGITS_FULL + 8, PARTS_FULL = SUMS_FULL + 8;
constexpr int MIDDLE_BYTES = 8 * 8 * 4 * FRAGMENT;    // [8 warps, 8 steps, 4 experts] fragments
static_assert(PARTS_FULL + 8 == SHARED_BYTES && THREADS == 256, "ResidentShape in cluster_shapes.py has other sizes");
static_assert(MIDDLE_BYTES + WEIGHTS_BYTES == STREAM_BYTES, "resident_weights.py has other sizes");

// log2(e) elu(x / log2(e)), as in cmg_runtime.backends.fused.layers
__device__ __forceinline__ float elu(float x) { return x > 0.f ? x : fmaf(exp2_fast(x), LOG2E, -LOG2E); }

// What a lane has of 16 outputs and 8 rows: outputs lane / 4 and 8 more, each for rows lane % 4 * 2 and 1 more.
// `products` by expert, `c` by row.
__device__ __forceinline__ float mix(const float (&products)[EXPERTS][4], const float (&c)[2][EXPERTS], int i) {
    float sum = 0.f;
#pragma unroll
    for (int e = 0; e < EXPERTS; ++e) sum = fmaf(c[i % 2][e], products[e][i], sum);
    return sum;
}

// Each expert's bias of 16 outputs, at `place`: of a lane's two.
__device__ __forceinline__ void load_bias(float (&bias)[EXPERTS][2], u32 place, int lane) {
#pragma unroll
    for (int e = 0; e < EXPERTS; ++e)
#pragma unroll
        for (int half = 0; half < 2; ++half) bias[e][half] = load_shared1(place + (e * 16 + half * 8 + lane / 4) * 4);
}

__device__ __forceinline__ void start(float (&products)[EXPERTS][4], const float (&bias)[EXPERTS][2]) {
#pragma unroll
    for (int e = 0; e < EXPERTS; ++e)
#pragma unroll
        for (int i = 0; i < 4; ++i) products[e][i] = bias[e][i / 2];
}

// The coefficients of a lane's two rows.
__device__ __forceinline__ void load_mixing(u32 shared, int tile, int lane, float (&c)[2][EXPERTS]) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float4 v = load_shared4(shared + MIXING + (tile * 8 + lane % 4 * 2 + i) * 16);
        c[i][0] = v.x, c[i][1] = v.y, c[i][2] = v.z, c[i][3] = v.w;
    }
}

// The first frame's input, normalised.
__device__ __forceinline__ void load_inputs(const Arguments &args, i64 first_row, u32 shared) {
    int column = threadIdx.x % 64;
    bool of_motion = column < args.motion_dim;
    float shift = args.shift[column], scale = args.scale[column], value[ROWS / 4];
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i) {
        i64 row = first_row + threadIdx.x / 64 + i * 4;
        value[i] = 0.f;
        load_if(row < args.num_rows && column < args.input_dim,
                of_motion ? args.motion + row * args.motion_stride + column
                          : args.command + row * args.command_stride + column - args.motion_dim,
                value[i]);
    }
#pragma unroll
    for (int i = 0; i < ROWS / 4; ++i)
        store_shared_half(shared + X + (threadIdx.x / 64 + i * 4) * X_PITCH + column * 2, (value[i] - shift) * scale);
}

// x as the matrix unit's other operand: of a tile of 8 rows, four steps of 16 inputs.
__device__ __forceinline__ void load_x(u32 shared, int tile, int lane, u32 (&x)[4][2]) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
        u32 pieces[4];
        load_matrices(pieces, shared + X + (tile * 8 + lane % 8) * X_PITCH + pair * 64 + lane / 8 * 16);
        x[pair * 2][0] = pieces[0], x[pair * 2][1] = pieces[1];
        x[pair * 2 + 1][0] = pieces[2], x[pair * 2 + 1][1] = pieces[3];
    }
}

// Eight fragments, one behind the other: half of what a warp multiplies x with, in the first layer; all of it in the gate.
__device__ __forceinline__ void load_early(uint4 (&weights)[8], u32 place, int lane) {
#pragma unroll
    for (int i = 0; i < 8; ++i) weights[i] = load_fragment(place + i * FRAGMENT + lane * 16);
}

// This CTA's hidden units of the gate for 8 rows, and what they add to the logits, sent to every CTA. One warp.
__device__ __forceinline__ void gate(u32 shared, u32 rank, int tile, int lane, const uint4 (&weights)[8]) {
    u32 x[4][2];
    load_x(shared, tile, lane, x);
    float4 out[2][2];
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            out[m][half] = load_shared4(shared + GATE_OUT + (m * 16 + half * 8 + lane / 4) * 16);
    float hidden[2][2][4] = {};  // of even and odd steps, so that less waits for what is before it
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int m = 0; m < 2; ++m) product(hidden[step % 2][m], weights[m * 4 + step], x[step]);
    float sums[2][EXPERTS] = {};
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float4 w = out[m][half];
#pragma unroll
            for (int row = 0; row < 2; ++row) {
                float h = elu(hidden[0][m][half * 2 + row] + hidden[1][m][half * 2 + row]);
                sums[row][0] = fmaf(h, w.x, sums[row][0]), sums[row][1] = fmaf(h, w.y, sums[row][1]);
                sums[row][2] = fmaf(h, w.z, sums[row][2]), sums[row][3] = fmaf(h, w.w, sums[row][3]);
            }
        }
    // The sum over lanes with the same lane % 4. Lanes from 16 on go on with the second row, the others with the first.
    bool second = lane >= 16;
    float sum[EXPERTS];
#pragma unroll
    for (int e = 0; e < EXPERTS; ++e) {
        float kept = second ? sums[1][e] : sums[0][e], given = second ? sums[0][e] : sums[1][e];
        sum[e] = kept + __shfl_xor_sync(~0u, given, 16);
    }
#pragma unroll
    for (int behind = 8; behind >= 4; behind /= 2)
#pragma unroll
        for (int e = 0; e < EXPERTS; ++e) sum[e] += __shfl_xor_sync(~0u, sum[e], behind);
    u32 place = shared + LOGITS + (rank * ROWS + tile * 8 + lane % 4 * 2 + second) * 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        u32 to = i * 4 + lane / 4 % 4;
        send(at_rank(place, to), __float_as_uint(sum[0]), __float_as_uint(sum[1]), __float_as_uint(sum[2]),
             __float_as_uint(sum[3]), at_rank(shared + LOGITS_FULL, to));
    }
}

// softmax of the sum of all CTAs' logits, of this warp's TILES rows, put where all warps find it.
__device__ __forceinline__ void coefficients(const float (&gate_bias)[EXPERTS], u32 shared, int warp, int lane) {
    int row = warp * TILES + (TILES > 1 ? lane / 16 : 0), share = lane % 4;
    float sum[EXPERTS] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float4 part = load_shared4(shared + LOGITS + ((i * 4 + share) * ROWS + row) * 16);
        sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
    }
#pragma unroll
    for (int behind = 1; behind <= 2; behind *= 2)
#pragma unroll
        for (int e = 0; e < EXPERTS; ++e) sum[e] += __shfl_xor_sync(~0u, sum[e], behind);
#pragma unroll
    for (int e = 0; e < EXPERTS; ++e) sum[e] += gate_bias[e];
    float most = fmaxf(fmaxf(sum[0], sum[1]), fmaxf(sum[2], sum[3])), total = 0.f;
#pragma unroll
    for (int e = 0; e < EXPERTS; ++e) total += sum[e] = exp2_fast((sum[e] - most) * LOG2E);
    if (lane % (TILES > 1 ? 16 : 32) == 0)
        store_shared4(shared + MIXING + row * 16, __fdividef(sum[0], total), __fdividef(sum[1], total),
                      __fdividef(sum[2], total), __fdividef(sum[3], total));
}

// Of 128 units of x1 this warp's 16. `early`: the first half of their weights.
__device__ __forceinline__ void first_layer(u32 shared, int warp, int lane, const uint4 (&early)[8],
                                            float (&products)[TILES][EXPERTS][4]) {
    u32 x[TILES][4][2];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) load_x(shared, tile, lane, x[tile]);
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
        for (int e = 0; e < EXPERTS; ++e) {
            int i = step * EXPERTS + e;
            uint4 weights = i < 8 ? early[i]
                                  : load_fragment(shared + FIRST + (warp * 4 * EXPERTS + i) * FRAGMENT + lane * 16);
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) product(products[tile][e], weights, x[tile][step]);
        }
}

__device__ __forceinline__ void store_x1(u32 shared, int warp, int lane, const float (&products)[TILES][EXPERTS][4],
                                         const float (&c)[TILES][2][EXPERTS]) {
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        float y[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) y[i] = elu(mix(products[tile], c[tile], i));
        u32 place = shared + X1 + tile * 2048 + (warp * 16 + lane / 4) * 16 + lane % 4 * 4;
        store_shared(place, halves(y[0], y[1]));
        store_shared(place + 128, halves(y[2], y[3]));
    }
}

// This CTA's part of 128 units of x2, before ELU; of them this warp's 16.
__device__ __forceinline__ void middle_layer(u32 shared, u32 rank, int warp, int lane, const uint4 (&weights)[8][EXPERTS],
                                             const float (&c)[TILES][2][EXPERTS], const float (&bias)[EXPERTS][2]) {
    float products[TILES][EXPERTS][4];
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) start(products[tile], bias);
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {
        u32 x[TILES][2][2];
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) load_units(shared + X1 + tile * 2048 + pair * 512, lane, x[tile]);
#pragma unroll
        for (int step = 0; step < 2; ++step)
#pragma unroll
            for (int e = 0; e < EXPERTS; ++e)
#pragma unroll
                for (int tile = 0; tile < TILES; ++tile)
                    product(products[tile][e], weights[pair * 2 + step][e], x[tile][step]);
    }
    u32 to = rank / 4 * 4 + warp / 2, full = at_rank(shared + SUMS_FULL, to);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        u32 place = shared + SUMS + ((rank % 4 * TILES + tile) * 32 + warp % 2 * 16 + lane / 4) * 32 + lane % 4 * 8;
#pragma unroll
        for (int half = 0; half < 2; ++half)
            send(at_rank(place + half * 256, to), mix(products[tile], c[tile], half * 2),
                 mix(products[tile], c[tile], half * 2 + 1), full);
    }
}

// The sum of four CTAs' parts of x2: of 32 units and 8 rows, two values a lane of four warps.
__device__ __forceinline__ void store_x2(u32 shared, int tile, int warp, int lane) {
    int unit = warp % 4 * 8 + lane / 4;
    float2 sum = make_float2(0.f, 0.f);
#pragma unroll
    for (int from = 0; from < 4; ++from) {
        float2 part = load_shared2(shared + SUMS + ((from * TILES + tile) * 32 + unit) * 32 + lane % 4 * 8);
        sum.x += part.x, sum.y += part.y;
    }
    store_shared(shared + X2 + tile * 512 + unit * 16 + lane % 4 * 4, halves(elu(sum.x), elu(sum.y)));
}

// What the CTA's 32 units of x2 add to 16 columns of 8 rows of the result, sent to the rows' owners. One warp.
__device__ __forceinline__ void last_layer(u32 shared, u32 rank, int tile, int warp, int lane,
                                           const uint4 (&weights)[2][EXPERTS], const float (&c)[2][EXPERTS],
                                           const float (&bias)[EXPERTS][2]) {
    float products[EXPERTS][4];
    start(products, bias);
    u32 x[2][2];
    load_units(shared + X2 + tile * 512, lane, x);
#pragma unroll
    for (int step = 0; step < 2; ++step)
#pragma unroll
        for (int e = 0; e < EXPERTS; ++e) product(products[e], weights[step][e], x[step]);
    // A lane has two columns of two rows.
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = mix(products, c, i);
    if (TILES > 1) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            u32 owner = tile * 8 + lane % 4 * 2 + i % 2;
            u32 place = shared + PARTS + rank * 256 + (warp % 4 * 16 + i / 2 * 8 + lane / 4) * 4;
            send(at_rank(place, owner), v[i], at_rank(shared + PARTS_FULL, owner));
        }
        return;
    }
    // With few warps that send, fewer messages are faster. Four lanes, four apart, exchange their values: each then has one
    // of the rows, and four columns that lie side by side.
    bool second = lane / 4 % 2, upper = lane / 8 % 2;  // of the rows; of the columns' halves
    float a = __shfl_xor_sync(~0u, second ? v[0] : v[1], 4), b = __shfl_xor_sync(~0u, second ? v[2] : v[3], 4);
    float low[2] = {second ? a : v[0], second ? v[1] : a};    // neighbouring columns of the lower half
    float high[2] = {second ? b : v[2], second ? v[3] : b};   // and of the upper one
    float p = __shfl_xor_sync(~0u, upper ? low[0] : high[0], 8), q = __shfl_xor_sync(~0u, upper ? low[1] : high[1], 8);
    u32 owner = tile * 8 + lane % 4 * 2 + second;
    u32 place = shared + PARTS + rank * 256 + (warp % 4 * 16 + upper * 8 + lane / 16 * 4) * 4;
    float first = upper ? p : low[0], next = upper ? q : low[1];
    float third = upper ? high[0] : p, fourth = upper ? high[1] : q;
    send(at_rank(place, owner), __float_as_uint(first), __float_as_uint(next), __float_as_uint(third),
         __float_as_uint(fourth), at_rank(shared + PARTS_FULL, owner));
}

// The end of a frame, in four warps of the CTA that owns the row; each lane has two columns.
struct Finish {
    i64 row;
    int column;
    bool there;
    float shift[2], scale[2], deviation[2], low[2], high[2], command[2];

    __device__ __forceinline__ void begin(const Arguments &args, i64 owned, int lane) {
        row = owned, column = lane * 2, there = row < args.num_rows;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            int at = column + i;
            bool guarded = at < args.motion_dim && args.guard.low != nullptr;
            shift[i] = args.shift[at], scale[i] = args.scale[at], deviation[i] = args.motion_std[at];
            low[i] = guarded ? args.guard.low[at] : -__int_as_float(0x7f800000);
            high[i] = guarded ? args.guard.high[at] : __int_as_float(0x7f800000);
        }
    }

    // What the next frame's input has beside the motion state; read early.
    __device__ __forceinline__ void load_command(const Arguments &args, int frame) {
        if (frame + 1 == args.num_frames) return;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            int at = column + i;
            command[i] = 0.f;
            load_if(at >= args.motion_dim && at < args.input_dim && there,
                    args.command + (frame + 1) * args.command_pitch + row * args.command_stride + at - args.motion_dim,
                    command[i]);
        }
    }

    __device__ __forceinline__ void run(const Arguments &args, u32 shared, u32 rank, int warp, int lane, int frame) const {
        float part[4][2] = {}, value[2];
#pragma unroll
        for (int from = 0; from < C; ++from) {
            float2 v = load_shared2(shared + PARTS + from * 256 + column * 4);
            part[from % 4][0] += v.x, part[from % 4][1] += v.y;
        }
#pragma unroll
        for (int i = 0; i < 2; ++i)
            value[i] = fmaf((part[0][i] + part[1][i]) + (part[2][i] + part[3][i]), deviation[i], shift[i]);
        if (args.guard.low != nullptr && there) {
            bool good = true;
#pragma unroll
            for (int i = 0; i < 2; ++i)
                if (column + i < args.motion_dim) good &= value[i] >= low[i] && value[i] <= high[i];  // NaN is neither
            if (!__all_sync(~0u, good)) replace(args, warp, lane, frame, value);
        }
        if (frame + 1 < args.num_frames) {
            float x[2];
#pragma unroll
            for (int i = 0; i < 2; ++i)
                x[i] = ((column + i < args.motion_dim ? value[i] : command[i]) - shift[i]) * scale[i];
            // 16 bytes a lane: eight lanes have the row, and each eight send it to another CTA.
            u32 mine = halves(x[0], x[1]), piece[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) piece[i] = __shfl_sync(~0u, mine, lane % 8 * 4 + i);
            u32 to = warp * 4 + lane / 8;
            send(at_rank(shared + X + rank * X_PITCH + lane % 8 * 16, to), piece[0], piece[1], piece[2], piece[3],
                 at_rank(shared + X_FULL, to));
        }
        if (there && warp == 0) {
            float *out = args.out + frame * args.out_pitch + row * args.out_stride + column;
#pragma unroll
            for (int i = 0; i < 2; ++i)
                if (column + i < args.motion_dim) out[i] = value[i];
        }
    }

    __device__ __forceinline__ void replace(const Arguments &args, int warp, int lane, int frame, float (&value)[2]) const {
        const Guard &guard = args.guard;
        i64 environment = load_fresh(guard.columns + row);
        i64 state = (load_fresh(guard.frame + environment) + guard.ahead + frame + guard.stride * environment) % guard.num_states;
#pragma unroll
        for (int i = 0; i < 2; ++i)
            if (column + i < args.motion_dim) value[i] = guard.bank[state * args.motion_dim + column + i];
        if (warp == 0 && lane == 0 && environment < guard.scratch_column)
            atomicAdd(reinterpret_cast<u64 *>(guard.replaced), u64(1));
    }
};

__device__ __forceinline__ void compute(const Arguments &args, u32 shared, u32 rank) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    i64 first_row = i64(blockIdx.x / C) * ROWS;
    const char *stream = args.stream + rank * STREAM_BYTES;
    uint4 middle[8][EXPERTS];
#pragma unroll
    for (int step = 0; step < 8; ++step)
#pragma unroll
        for (int e = 0; e < EXPERTS; ++e)
            middle[step][e] = load_global4(stream + ((warp * 8 + step) * EXPERTS + e) * FRAGMENT + lane * 16);
    float gate_bias[EXPERTS];
#pragma unroll
    for (int e = 0; e < EXPERTS; ++e) gate_bias[e] = args.gate_bias[e];
    bool last_of_tile = warp / 4 < TILES;  // four warps for each tile of 8 rows
    int tile_of_last = warp / 4 % TILES;
    bool finishes = warp < 4 && rank < ROWS;
    u32 early_place = shared + (warp < TILES ? GATE : FIRST + warp * 4 * EXPERTS * FRAGMENT);
    Finish end;
    end.begin(args, first_row + rank % ROWS, lane);
    load_inputs(args, first_row, shared);
    barrier_wait(shared + WEIGHTS_FULL, 0);
    __syncthreads();
    cluster_wait();
#pragma unroll 1
    for (int frame = 0; frame < args.num_frames; ++frame) {
        uint4 early[8];  // on their way before x is here, so that they do not wait in shared memory's queue behind others'
        load_early(early, early_place, lane);
        if (frame) cluster_barrier_wait(shared + X_FULL, (frame - 1) & 1);
        if (warp < TILES) {
            gate(shared, rank, warp, lane, early);
            load_early(early, shared + FIRST + warp * 4 * EXPERTS * FRAGMENT, lane);
        }
        if (threadIdx.x == THREADS - 1) {
            barrier_expect(shared + LOGITS_FULL, C * ROWS * 16);
            barrier_expect(shared + SUMS_FULL, 4 * TILES * 1024);
            if (rank < ROWS) barrier_expect(shared + PARTS_FULL, C * 256);
            if (frame + 1 < args.num_frames) barrier_expect(shared + X_FULL, ROWS * 128);
        }
        if (finishes) end.load_command(args, frame);
        float c[TILES][2][EXPERTS], bias[EXPERTS][2];
        {
            float products[TILES][EXPERTS][4] = {};
            first_layer(shared, warp, lane, early, products);
            load_bias(bias, shared + BIAS + warp * 256, lane);
            cluster_barrier_wait(shared + LOGITS_FULL, frame & 1);
            coefficients(gate_bias, shared, warp, lane);
            __syncthreads();
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) load_mixing(shared, tile, lane, c[tile]);
            store_x1(shared, warp, lane, products, c);
        }
        __syncthreads();
        middle_layer(shared, rank, warp, lane, middle, c, bias);
        if (last_of_tile) {
            uint4 weights[2][EXPERTS];
#pragma unroll
            for (int step = 0; step < 2; ++step)
#pragma unroll
                for (int e = 0; e < EXPERTS; ++e)
                    weights[step][e] =
                        load_fragment(shared + LAST + ((warp % 4 * 2 + step) * EXPERTS + e) * FRAGMENT + lane * 16);
            load_bias(bias, shared + LAST_BIAS + warp % 4 * 256, lane);
            float of_tile[2][EXPERTS];
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int e = 0; e < EXPERTS; ++e) of_tile[i][e] = tile_of_last ? c[TILES - 1][i][e] : c[0][i][e];
            cluster_barrier_wait(shared + SUMS_FULL, frame & 1);
            store_x2(shared, tile_of_last, warp, lane);
            group_sync(tile_of_last);
            last_layer(shared, rank, tile_of_last, warp, lane, weights, of_tile, bias);
        }
        if (finishes) {
            cluster_barrier_wait(shared + PARTS_FULL, frame & 1);
            end.run(args, shared, rank, warp, lane, frame);
        }
    }
}

extern "C" __global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(THREADS, 1)
    generate_frames(const __grid_constant__ Arguments args) {
    extern __shared__ __align__(1024) char memory[];
    u32 shared = u32(__cvta_generic_to_shared(memory)), rank = cluster_rank();
    if (threadIdx.x == 0) {
        barrier_init(shared + WEIGHTS_FULL, 1);
        barrier_init(shared + X_FULL, 1);
        barrier_init(shared + LOGITS_FULL, 1);
        barrier_init(shared + SUMS_FULL, 1);
        barrier_init(shared + PARTS_FULL, 1);
        barriers_are_there();
        barrier_expect(shared + WEIGHTS_FULL, WEIGHTS_BYTES);
        copy_from_global(shared, args.stream + rank * STREAM_BYTES + MIDDLE_BYTES, WEIGHTS_BYTES, shared + WEIGHTS_FULL);
    }
    __syncthreads();
    cluster_arrive();  // what follows needs the other CTAs only where it waits
    compute(args, shared, rank);
    cluster_arrive();  // nobody ends while another one may still send to it
    cluster_wait();
}
