// The generator's network, one or many frames in one launch: a cluster of thread blocks for each block of rows.
//
// A cluster's CTAs share the columns of every layer: CTA `rank` of C computes hidden units [rank * 512 / C, ..) of its
// rows, for all four experts, and sends them to the other CTAs' shared memory. Activations never leave the chip, and
// no frame waits for a launch. Weights stream through a ring of 32 KB blocks in the order in which they are used, laid
// out on the host (cmg_runtime.backends.fused.cluster_weights) as the matrix units read them.
//
// In a CTA each of R groups of four warps has 64 rows, and the last warp keeps the ring filled. One frame of a group:
//
//   gate      its share of hidden units -> partial logits, sent to all; their sum -> coefficients c
//   first     x W0 -> mix with c, ELU -> its columns of x1 as half precision, sent to all
//   middle    x1 W1 -> mix, ELU -> x2 in registers, multiplied at once with its rows of W2 -> mix -> part of the sum
//   finish    parts are sent to the CTA that has the row; their sum -> next motion state, checked and written;
//             normalised it is the next frame's x, sent to all
//
// What comes from other CTAs arrives at an mbarrier that counts bytes. Each of them is used once a frame, so its phase
// is the frame's number. Shared memory of x1 is used for other things while it is free; what makes each of them safe
// stands where it is written.
//
// Compiled at run time with -DC= (2, 4 or 8), -DR=, -DSTAGES=, and with what it has in common with the code that launches
// it: see cluster.py. Declared in cluster_arguments.py are Guard and Arguments, EXPERTS, CHUNKS (of 64 hidden units each),
// HIDDEN, LOG2E, and BLOCK (bytes of a block of weights: 256 columns x 64).

static_assert(HIDDEN == CHUNKS * 64 && BLOCK == EXPERTS * 64 * 64 * 2, "the kernel's tiles are written for these");
constexpr int TILES = CHUNKS / C;                  // chunks of a CTA
constexpr int GATE = HIDDEN / C;                   // gate units of a CTA
constexpr int GATE_WEIGHTS = GATE * 128, GATE_OUT = GATE * 4 * EXPERTS;  // bytes; in one block where they fit
constexpr int GATE_BLOCKS = GATE_WEIGHTS + GATE_OUT > BLOCK ? 2 : 1;
constexpr int BLOCKS = GATE_BLOCKS + TILES + TILES * (CHUNKS + 1);  // of a frame
constexpr int GROUP_BYTES = 64 * 128;              // 64 rows of one chunk in half precision
constexpr int CHUNK_BYTES = R * GROUP_BYTES;
constexpr int OWNED = 64 / C;                      // rows of a group whose result a CTA finishes

// Byte offsets in shared memory.
constexpr int RING = CHUNKS * CHUNK_BYTES;
constexpr int BIAS = RING + STAGES * BLOCK;        // [TILES * 256] float
constexpr int LOGITS = BIAS + TILES * 1024;        // [R, C, 64, 4] float, where x1 has no room for it
constexpr int BARRIERS = LOGITS + (TILES > 1 ? 0 : R * C * 1024);
constexpr int FULL = BARRIERS, EMPTY = FULL + 8 * STAGES;
constexpr int X1_FULL = EMPTY + 8 * STAGES;        // [R, CHUNKS]
constexpr int LOGITS_FULL = X1_FULL + 8 * R * CHUNKS;
constexpr int X1_FREE = LOGITS_FULL + 8 * R, PARTS_FULL = X1_FREE + 8 * R, NEXT_FULL = PARTS_FULL + 8 * R;
static_assert(NEXT_FULL + 8 * R == SHARED_BYTES && 128 * R + 128 == THREADS, "ClusterShape in cluster_shapes.py has other sizes");

// log2(e) elu(x / log2(e)), as in cmg_runtime.backends.fused.layers
__device__ __forceinline__ float elu(float x) { return x > 0.f ? x : fmaf(exp2_fast(x), LOG2E, -LOG2E); }

// Sum over experts of one output of a product's accumulator: the experts of 16 columns lie one behind the other.
// `piece` is 8 columns, `i` says which of a lane's four values of them: its rows are i / 2, its columns i % 2.
__device__ __forceinline__ float mix(const float (&products)[128], const float (&c)[2][EXPERTS], int piece, int i) {
    float sum = 0.f;
#pragma unroll
    for (int e = 0; e < EXPERTS; ++e)
        sum = fmaf(c[i / 2][e], products[((piece / 2 * EXPERTS + e) * 2 + piece % 2) * 4 + i], sum);
    return sum;
}

// Where a group's 64 rows of chunk `chunk` of x1 begin.
__device__ __forceinline__ u32 x1_place(u32 shared, int chunk, int group) {
    return shared + (chunk & (CHUNKS - 1)) * CHUNK_BYTES + group * GROUP_BYTES;
}

// Where CTA `owner` takes all CTAs' logits. In its first own chunk if it has another one: all have read x1 of the frame
// before when they come, and the group itself writes there only when it has read them.
__device__ __forceinline__ u32 logits_place(u32 shared, u32 owner, int group) {
    return TILES > 1 ? x1_place(shared, owner * TILES, group) : shared + LOGITS + group * C * 1024;
}

// Place of 16 bytes, `piece` of 8, of a row of 128 bytes.
__device__ __forceinline__ u32 swizzled(int row, int piece) { return row * 128 + ((piece ^ (row & 7)) << 4); }

// Two groups multiply in turns, the first one first: while one mixes what it has multiplied, the other multiplies. Were
// both to multiply at once, each at half the speed, both would mix at once, and the matrix units wait. A turn is over when
// its products are on their way: these units take them in this order.
constexpr bool TURNS = R == 2;

__device__ __forceinline__ void begin_turn(int group) {
    if (TURNS) pair_sync(1 + R + group);
}
__device__ __forceinline__ void end_turn(int group) {
    if (TURNS) pair_arrive(1 + R + 1 - group);
}

// The ring as a group sees it.
struct Ring {
    u32 shared;
    u32 count = 0;

    __device__ __forceinline__ u32 wait() const {  // where the next block is, once it is there
        u32 stage = count % STAGES;
        barrier_wait(shared + FULL + 8 * stage, count / STAGES & 1);
        return shared + RING + stage * BLOCK;
    }
    __device__ __forceinline__ void free(u32 block, int lane) const {  // block number `block` has been read by this warp
        if (lane == 0) barrier_arrive(shared + EMPTY + 8 * (block % STAGES));
    }
};

// Block number `count` of all frames, which is number `block` of its own frame.
__device__ __forceinline__ void fill(const Arguments &args, u32 shared, u32 rank, u32 count, u32 block) {
    const char *weights = args.stream + (size_t(rank) * BLOCKS + block) * BLOCK;
    u32 stage = count % STAGES, full = shared + FULL + 8 * stage;
    u32 bytes = block >= GATE_BLOCKS ? BLOCK : GATE_BLOCKS == 1 ? GATE_WEIGHTS + GATE_OUT : block ? GATE_OUT : BLOCK;
    u32 bias = count == 0 ? TILES * 1024 : 0;  // comes with the first block, and stays
    if (count >= STAGES) barrier_wait(shared + EMPTY + 8 * stage, (count / STAGES - 1) & 1);
    barrier_expect(full, bytes + bias);
    if (bias) copy_from_global(shared + BIAS, reinterpret_cast<const char *>(args.bias) + rank * bias, bias, full);
    copy_from_global(shared + RING + stage * BLOCK, weights, bytes, full);
}

__device__ __forceinline__ void fill_ring(const Arguments &args, u32 shared, u32 rank) {
    bool fills = threadIdx.x == 128 * R;
    if (fills) fill(args, shared, rank, 0, 0);
    __syncthreads();  // the first inputs are there: more weights would have been in their way
    if (!fills) return;
    u32 count = 1, block = 1;
    for (int frame = 0; frame < args.num_frames; ++frame, block = 0)
        for (; block < BLOCKS; ++block, ++count) fill(args, shared, rank, count, block);
}

// The first frame's input, normalised, put where the next ones arrive. Each thread has a column of every other row; all
// its reads are under way at once.
__device__ __forceinline__ void load_inputs(const Arguments &args, i64 first_row, u32 place) {
    int column = threadIdx.x % 64, odd = threadIdx.x / 64 % 2;
    bool of_motion = column < args.motion_dim;
    i64 stride = of_motion ? args.motion_stride : args.command_stride;
    const float *from = (of_motion ? args.motion + column : args.command + column - args.motion_dim) + (first_row + odd) * stride;
    i64 rows = column < args.input_dim ? args.num_rows - first_row - odd : 0;
    float value[32];
#pragma unroll
    for (int i = 0; i < 32; ++i, from += 2 * stride) {
        value[i] = 0.f;
        load_if(2 * i < rows, from, value[i]);
    }
    float shift = args.shift[column], scale = args.scale[column];
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        int row = 2 * i + odd;
        store_shared_half(place + swizzled(row, column / 8) + column % 8 * 2, (value[i] - shift) * scale);
    }
}

// This CTA's hidden units of the gate, and what they add to the logits, sent to every CTA.
__device__ __forceinline__ void gate(u32 shared, u32 rank, int group, int warp, int lane, Ring &ring,
                                     const u32 (&x)[4][4]) {
    float hidden[GATE / 2];
    u32 block = ring.wait();
    begin_turn(group);
    products_begin();
#pragma unroll
    for (int step = 0; step < 4; ++step)
        product(hidden, x[step], descriptor(block + 32 * step), step > 0);
    products_end();
    end_turn(group);
    products_wait<0>();
    hold(hidden);
    u32 out = block + GATE_WEIGHTS;
    if (GATE_BLOCKS > 1) {
        ring.free(ring.count++, lane);
        out = ring.wait();
    }
    u32 h[GATE / 16][4];
#pragma unroll
    for (int piece = 0; piece < GATE / 8; ++piece) {
        float y[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) y[i] = elu(hidden[piece * 4 + i]);
        h[piece / 2][piece % 2 * 2] = halves(y[0], y[1]);
        h[piece / 2][piece % 2 * 2 + 1] = halves(y[2], y[3]);
    }
    // Eight columns: the experts' weights in half precision, and what rounding them has left.
    float sums[4];
    products_begin();
#pragma unroll
    for (int step = 0; step < GATE / 16; ++step)
        product(sums, h[step], descriptor(out + step / 4 * 1024 + step % 4 * 32), step > 0);
    products_end();
    products_wait<0>();
    hold(sums);
    // Copies may overwrite what has been read up to here: these weights, and the parts of the frame before.
    before_copies();
    __syncwarp();
    ring.free(ring.count++, lane);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += __shfl_xor_sync(~0u, sums[i], 2);
    // Of four lanes the first has two experts of two rows now, the second the other two; each sends one of the rows.
    int half = lane % 4;
    float a = __shfl_xor_sync(~0u, half ? sums[0] : sums[2], 1), b = __shfl_xor_sync(~0u, half ? sums[1] : sums[3], 1);
    if (half < 2) {
        u32 place = (rank * 64 + warp * 16 + lane / 4 + half * 8) * 16;
#pragma unroll
        for (int to = 0; to < C; ++to)
            send(at_rank(logits_place(shared, to, group) + place, to), __float_as_uint(half ? a : sums[0]),
                 __float_as_uint(half ? b : sums[1]), __float_as_uint(half ? sums[2] : a),
                 __float_as_uint(half ? sums[3] : b), at_rank(shared + LOGITS_FULL + 8 * group, to));
    }
}

// softmax of the sum of all CTAs' logits
__device__ __forceinline__ void coefficients(const float (&gate_bias)[EXPERTS], int warp, int lane, u32 logits,
                                             float (&c)[2][EXPERTS]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float sum[EXPERTS];
#pragma unroll
        for (int e = 0; e < EXPERTS; ++e) sum[e] = gate_bias[e];
#pragma unroll
        for (int from = 0; from < C; ++from) {
            float4 part = load_shared4(logits + (from * 64 + warp * 16 + lane / 4 + half * 8) * 16);
            sum[0] += part.x, sum[1] += part.y, sum[2] += part.z, sum[3] += part.w;
        }
        float most = fmaxf(fmaxf(sum[0], sum[1]), fmaxf(sum[2], sum[3])), total = 0.f;
#pragma unroll
        for (int e = 0; e < EXPERTS; ++e) total += c[half][e] = exp2_fast((sum[e] - most) * LOG2E);
#pragma unroll
        for (int e = 0; e < EXPERTS; ++e) c[half][e] = __fdividef(c[half][e], total);
    }
}

// This CTA's columns of x1: into its own shared memory, then to the other CTAs.
__device__ __forceinline__ void first_layer(const float (&gate_bias)[EXPERTS], u32 shared, u32 rank, int group, int warp, int lane,
                                            u32 frame, Ring &ring, const u32 (&x)[4][4], u32 logits,
                                            float (&c)[2][EXPERTS]) {
#pragma unroll 1
    for (int tile = 0; tile < TILES; ++tile) {
        float products[128];
        u32 block = ring.wait();
        begin_turn(group);
        products_begin();
#pragma unroll
        for (int step = 0; step < 4; ++step)
            product(products, x[step], descriptor(block + 32 * step), step > 0);
        products_end();
        end_turn(group);
        if (tile == 0) {
            cluster_barrier_wait(shared + LOGITS_FULL + 8 * group, frame & 1);
            coefficients(gate_bias, warp, lane, logits, c);
            group_sync(group);  // the logits may lie where x1 is written next
        }
        products_wait<0>();
        hold(products);
        ring.free(ring.count++, lane);
        u32 place = x1_place(shared, rank * TILES + tile, group);
        int row = warp * 16 + lane / 4;
#pragma unroll
        for (int piece = 0; piece < 8; ++piece) {
            float y[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) y[i] = elu(mix(products, c, piece, i));
            store_shared(place + swizzled(row, piece) + lane % 4 * 4, halves(y[0], y[1]));
            store_shared(place + swizzled(row + 8, piece) + lane % 4 * 4, halves(y[2], y[3]));
        }
        before_copies();
        group_sync(group);
        if (lane == 0) {
            u32 full = shared + X1_FULL + 8 * (group * CHUNKS + rank * TILES + tile);
            for (int behind = 1 + warp; behind < C; behind += 4) {  // first to the one that will read it first
                u32 to = (rank + C - behind) % C;
                copy_to_rank(at_rank(place, to), place, GROUP_BYTES, at_rank(full, to));
            }
        }
    }
}

// The last layer's bias, which the CTAs share: each has the experts e with e % C = rank.
__device__ __forceinline__ void start_part(const Arguments &args, u32 rank, int lane, const float (&c)[2][EXPERTS],
                                           float (&part)[32]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) part[i] = 0.f;
#pragma unroll
    for (int e = 0; e < EXPERTS; ++e)
        if (e % C == rank)
#pragma unroll
            for (int i = 0; i < 32; ++i)
                part[i] = fmaf(c[i / 2 % 2][e], args.last_bias[e * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2], part[i]);
}

// This CTA's columns of x2, and what they add to the result: `part`, 64 rows x 64 columns in registers.
__device__ __forceinline__ void middle_layer(const Arguments &args, u32 shared, u32 rank, int group, int warp, int lane,
                                             u32 frame, Ring &ring, const float (&c)[2][EXPERTS], float (&part)[32]) {
#pragma unroll 1
    for (int tile = 0; tile < TILES; ++tile) {
        float products[128];
#pragma unroll
        for (int piece = 0; piece < 32; ++piece) {
            float2 bias = load_shared2(shared + BIAS + 4 * (tile * 256 + piece * 8 + lane % 4 * 2));
            products[piece * 4] = products[piece * 4 + 2] = bias.x;
            products[piece * 4 + 1] = products[piece * 4 + 3] = bias.y;
        }
#pragma unroll 1
        for (int k = 0; k < CHUNKS; ++k) {  // its own chunks first: the others are on their way
            int chunk = (rank * TILES + k) & (CHUNKS - 1);
            if (tile == 0 && k >= TILES) cluster_barrier_wait(shared + X1_FULL + 8 * (group * CHUNKS + chunk), frame & 1);
            u32 a = x1_place(shared, chunk, group), b = ring.wait();
            begin_turn(group);
            products_begin();
#pragma unroll
            for (int step = 0; step < 4; ++step)
                product(products, descriptor(a + 32 * step), descriptor(b + 32 * step));
            products_end();
            end_turn(group);
            if (k > 0) {
                products_wait<1>();
                ring.free(ring.count - 1, lane);
            }
            ++ring.count;
        }
        products_wait<0>();
        hold(products);
        ring.free(ring.count - 1, lane);
        if (tile == TILES - 1 && lane < C)
            barrier_arrive_remote(at_rank(shared + X1_FREE + 8 * group, lane));
        u32 x2[4][4];
#pragma unroll
        for (int piece = 0; piece < 8; ++piece) {
            float y[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) y[i] = elu(mix(products, c, piece, i));
            x2[piece / 2][piece % 2 * 2] = halves(y[0], y[1]);
            x2[piece / 2][piece % 2 * 2 + 1] = halves(y[2], y[3]);
        }
        u32 block = ring.wait();
        begin_turn(group);
        products_begin();
#pragma unroll
        for (int step = 0; step < 4; ++step)
            product(products, x2[step], descriptor(block + 32 * step), step > 0);
        products_end();
        end_turn(group);
        if (tile == 0) start_part(args, rank, lane, c, part);
        products_wait<0>();
        hold(products);
        ring.free(ring.count++, lane);
#pragma unroll
        for (int piece = 0; piece < 8; ++piece)
#pragma unroll
            for (int i = 0; i < 4; ++i) part[piece * 4 + i] += mix(products, c, piece, i);
    }
}

// Where CTA `owner` takes the parts of `from`: in the two chunks behind its own, of which only its own group reads.
__device__ __forceinline__ u32 parts_place(u32 shared, u32 owner, int group, u32 from) {
    return x1_place(shared, owner * TILES + TILES + from / (C / 2), group) + from % (C / 2) * (GROUP_BYTES / (C / 2));
}

__device__ __forceinline__ void send_parts(u32 shared, u32 rank, int group, int warp, int lane,
                                           const float (&part)[32]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int row = warp * 16 + lane / 4 + half * 8;
        u32 owner = row / OWNED;
        u32 place = at_rank(parts_place(shared, owner, group, rank), owner) + (row % OWNED) * 256 + lane % 4 * 8;
        u32 full = at_rank(shared + PARTS_FULL + 8 * group, owner);
#pragma unroll
        for (int piece = 0; piece < 8; ++piece)  // in other banks than those of the seven rows beside it
            send(place + (piece ^ row & 7) * 32, part[piece * 4 + half * 2], part[piece * 4 + half * 2 + 1], full);
    }
}

// What the end of a frame needs beside the parts, read while they are on their way: each thread of a group has eight
// columns of a row, and of another one 16 rows on where the CTA owns 32.
constexpr int PASSES = OWNED > 16 ? OWNED / 16 : 1;

struct Ending {
    int column;
    bool used, more;
    float shift[8], scale[8], deviation[8], low[8], high[8], command[PASSES][8];

    __device__ __forceinline__ void load(const Arguments &args, u32 rank, i64 first_row, int frame) {
        int thread = threadIdx.x % 128;
        used = thread < OWNED * 8;  // whole warps
        column = thread % 8 * 8;
        more = frame + 1 < args.num_frames;
        if (!used) return;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            int at = column + i;
            bool of_motion = at < args.motion_dim, guarded = of_motion && args.guard.low != nullptr;
            shift[i] = args.shift[at], scale[i] = args.scale[at], deviation[i] = args.motion_std[at];
            low[i] = guarded ? args.guard.low[at] : -__int_as_float(0x7f800000);
            high[i] = guarded ? args.guard.high[at] : __int_as_float(0x7f800000);
#pragma unroll
            for (int pass = 0; pass < PASSES; ++pass) {
                i64 row = first_row + rank * OWNED + thread / 8 + pass * 16;
                command[pass][i] = 0.f;
                load_if(!of_motion && at < args.input_dim && row < args.num_rows && more,
                        args.command + (frame + 1) * args.command_pitch + row * args.command_stride + at - args.motion_dim,
                        command[pass][i]);
            }
        }
    }
};

// The rows that this CTA owns.
__device__ __forceinline__ void finish(const Arguments &args, u32 shared, u32 rank, int group, int frame,
                                       i64 first_row, int pass, const Ending &end) {
    if (!end.used) return;
    int owned = threadIdx.x % 128 / 8 + pass * 16, column = end.column, group_row = rank * OWNED + owned;
    i64 row = first_row + group_row;
    bool there = row < args.num_rows;
    float value[8] = {};
#pragma unroll
    for (int from = 0; from < C; ++from) {
        u32 place = parts_place(shared, rank, group, from) + owned * 256 + (column / 8 ^ owned & 7) * 32;
        float4 first = load_shared4(place), second = load_shared4(place + 16);
        value[0] += first.x, value[1] += first.y, value[2] += first.z, value[3] += first.w;
        value[4] += second.x, value[5] += second.y, value[6] += second.z, value[7] += second.w;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] = fmaf(value[i], end.deviation[i], end.shift[i]);
    const Guard &guard = args.guard;
    if (guard.low != nullptr) {
        bool good = true;
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (column + i < args.motion_dim) good &= value[i] >= end.low[i] && value[i] <= end.high[i];  // NaN is neither
        u32 bad = __ballot_sync(~0u, there && !good) >> (threadIdx.x % 32 / 8 * 8) & 255;
        if (bad) {
            i64 environment = load_fresh(guard.columns + row);
            i64 state = (load_fresh(guard.frame + environment) + guard.ahead + frame + guard.stride * environment) % guard.num_states;
#pragma unroll
            for (int i = 0; i < 8; ++i)
                if (column + i < args.motion_dim) value[i] = guard.bank[state * args.motion_dim + column + i];
            if (column == 0 && environment < guard.scratch_column)
                atomicAdd(reinterpret_cast<u64 *>(guard.replaced), u64(1));
        }
    }
    if (end.more) {
        float x[8];
#pragma unroll
        for (int i = 0; i < 8; ++i)
            x[i] = ((column + i < args.motion_dim ? value[i] : end.command[pass][i]) - end.shift[i]) * end.scale[i];
        // The input's place is the last of each CTA's own chunks, which its group has read when the parts are there.
        u32 offset = swizzled(group_row, column / 8), full = shared + NEXT_FULL + 8 * group;
        u32 a = halves(x[0], x[1]), b = halves(x[2], x[3]), c = halves(x[4], x[5]), d = halves(x[6], x[7]);
#pragma unroll
        for (int to = 0; to < C; ++to)
            send(at_rank(x1_place(shared, to * TILES + TILES - 1, group) + offset, to), a, b, c, d, at_rank(full, to));
    }
    if (there) {
        float *out = args.out + frame * args.out_pitch + row * args.out_stride + column;
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (column + i < args.motion_dim) out[i] = value[i];
    }
}

__device__ void compute(const Arguments &args, u32 shared, u32 rank) {
    int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    i64 first_row = (i64(blockIdx.x / C) * R + group) * 64;
    u32 logits = logits_place(shared, rank, group);
    u32 next = x1_place(shared, rank * TILES + TILES - 1, group);
    Ring ring{shared};
    float gate_bias[EXPERTS];
#pragma unroll
    for (int e = 0; e < EXPERTS; ++e) gate_bias[e] = args.gate_bias[e];
    load_inputs(args, first_row, next);
    __syncthreads();
    cluster_wait();
    if (group == 1) end_turn(group);  // the first turn is the other group's
#pragma unroll 1
    for (int frame = 0; frame < args.num_frames; ++frame) {
        if (frame) cluster_barrier_wait(shared + NEXT_FULL + 8 * group, (frame - 1) & 1);
        if (warp == 0 && lane == 0) {
            barrier_expect(shared + LOGITS_FULL + 8 * group, C * 1024);
            for (int k = TILES; k < CHUNKS; ++k)
                barrier_expect(shared + X1_FULL + 8 * (group * CHUNKS + ((rank * TILES + k) & (CHUNKS - 1))), GROUP_BYTES);
            barrier_expect(shared + PARTS_FULL + 8 * group, 64 * 256);
            if (frame + 1 < args.num_frames) barrier_expect(shared + NEXT_FULL + 8 * group, GROUP_BYTES);
        }
        u32 x[4][4];
#pragma unroll
        for (int step = 0; step < 4; ++step)
            load_matrices(x[step], next + swizzled(warp * 16 + lane % 16, step * 2 + lane / 16));
        float c[2][EXPERTS], part[32];
        gate(shared, rank, group, warp, lane, ring, x);
        first_layer(gate_bias, shared, rank, group, warp, lane, frame, ring, x, logits, c);
        middle_layer(args, shared, rank, group, warp, lane, frame, ring, c, part);
        cluster_barrier_wait(shared + X1_FREE + 8 * group, frame & 1);
        send_parts(shared, rank, group, warp, lane, part);
        Ending end;
        end.load(args, rank, first_row, frame);
        cluster_barrier_wait(shared + PARTS_FULL + 8 * group, frame & 1);
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) finish(args, shared, rank, group, frame, first_row, pass, end);
    }
}

extern "C" __global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(128 * R + 128, 1)
    generate_frames(const __grid_constant__ Arguments args) {
    extern __shared__ __align__(1024) char memory[];
    u32 shared = u32(__cvta_generic_to_shared(memory)), rank = cluster_rank();
    if (R > 1) let_dependents_begin();  // see cluster.py: a kernel that fills the GPU's other SMs
    u32 barrier = BARRIERS + 8 * threadIdx.x;
    if (barrier < SHARED_BYTES) {
        if (shared % 1024) fail();
        bool of_warps = barrier >= EMPTY && barrier < X1_FULL, of_cluster = barrier >= X1_FREE && barrier < PARTS_FULL;
        barrier_init(shared + barrier, of_warps ? 4 * R : of_cluster ? 4 * C : 1);
        barriers_are_there();
    }
    __syncthreads();
    cluster_arrive();  // what follows needs the other CTAs only where it waits
    if (threadIdx.x < 128 * R) {
        if (R > 1) more_registers<240>();
        compute(args, shared, rank);
    } else {
        if (R > 1) fewer_registers<24>();
        fill_ring(args, shared, rank);
        __syncwarp();
        cluster_wait();
    }
    // A CTA may end now. It has waited for all that others send to it. What it copied to them has been read: its
    // threads have waited for X1_FREE, where every warp of the cluster arrives behind its last read of x1.
    wait_for_kernel_before();  // the kernel beside this one ends first
}
