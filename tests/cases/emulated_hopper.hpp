// What hopper.cuh and CUDA C++ give to the cluster kernels, on a CPU: put in front of the kernel's source instead of them.
//
// Each thread of the GPU is a coroutine. One warp after the other, drawn at random, runs until its lanes wait; some warps
// are drawn far more rarely than others, anew from time to time. What is sent to another thread block arrives some time
// later, in any order. So a place that is overwritten too early, or read before it is written, gives other results.

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <vector>

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint4 { u32 x, y, z, w; };
struct int4 { int x, y, z, w; };
struct Index { unsigned x; };
static float2 make_float2(float x, float y) { return {x, y}; }

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __shared__
#define __align__(n)
#define __cluster_dims__(...)
#define __launch_bounds__(...)
#define __cvta_generic_to_shared(pointer) 0

namespace emulated {

struct Barrier {  // mbarrier
    int count = 0, pending = 0, bytes = 0, phase = 0;
    void look() {
        if (pending == 0 && bytes == 0) phase ^= 1, pending = count;
    }
};

struct Meeting {  // of as many threads as take part
    int here = 0;
    u64 number = 0;
};

struct Block {
    std::vector<char> memory;
    std::map<u32, Barrier> barriers;
    std::map<int, Meeting> named;
};

struct Warp {
    u32 operands[2][32][6];
    u64 number[32] = {};  // of each lane's meetings
    Meeting meetings[2];
    int weight = 1;
    bool moved = true;  // a lane of it went on when it was drawn last
};

struct Thread {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Index index;
    u32 rank;
    Block *block;
    Warp *warp;
    bool done = false;
    u64 cluster_waits = 0;
};

struct Message {
    Block *to;
    u32 place, barrier, bytes;
    u32 words[4];
    const char *from;  // of a copy, which reads when it arrives; null: what it brings are the words
};

static Thread *current;
static ucontext_t scheduler;
static std::vector<Block> blocks;
static std::vector<Message> messages;
static Meeting whole_cluster;
static int cluster_threads, block_index;
static std::mt19937 random_numbers;

static bool failed;

static void require(bool condition) {
    if (condition) return;
    failed = true;
    swapcontext(&current->context, &scheduler);  // and never back
}

template <typename Condition> void wait_until(Condition there) {
    while (!there()) swapcontext(&current->context, &scheduler);
    current->warp->moved = true;
}

static void meet(Meeting &meeting, int threads) {
    u64 number = meeting.number;
    if (++meeting.here == threads) {
        meeting.here = 0, ++meeting.number;
        return;
    }
    wait_until([&] { return meeting.number != number; });
}

// All lanes' operands, once they are there.
static const u32 (&exchange(const u32 *mine, int words))[32][6] {
    Warp &warp = *current->warp;
    int lane = current->index.x % 32, parity = warp.number[lane]++ & 1;
    memcpy(warp.operands[parity][lane], mine, words * 4);
    meet(warp.meetings[parity], 32);
    return warp.operands[parity];
}

static Block &block_of(u32 address) { return address >> 24 ? blocks[(address >> 24) - 1] : *current->block; }
static char *at(u32 address, u32 bytes) {
    std::vector<char> &memory = block_of(address).memory;
    u32 offset = address & 0xFFFFFF;
    require(offset + bytes <= memory.size() && offset % bytes == 0);
    return memory.data() + offset;
}
template <typename T> T get(u32 address) {
    T value;
    memcpy(&value, at(address, sizeof(T)), sizeof(T));
    return value;
}
template <typename T> void put(u32 address, T value) { memcpy(at(address, sizeof(T)), &value, sizeof(T)); }

static void deliver(size_t which) {
    Message message = messages[which];
    messages[which] = messages.back();
    messages.pop_back();
    const void *from = message.from ? static_cast<const void *>(message.from) : message.words;
    memcpy(message.to->memory.data() + message.place, from, message.bytes);
    Barrier &barrier = message.to->barriers.at(message.barrier);
    barrier.bytes -= message.bytes;
    barrier.look();
}

static void post(u32 to, u32 barrier, std::initializer_list<u32> words) {
    u32 bytes = words.size() * 4;
    require(to >> 24 == barrier >> 24);
    at(to, bytes);
    Message message{&block_of(to), to & 0xFFFFFF, barrier & 0xFFFFFF, bytes, {}, nullptr};
    std::copy(words.begin(), words.end(), message.words);
    messages.push_back(message);
}

static void post_copy(u32 to, u32 barrier, const char *from, u32 bytes) {
    require(to >> 24 == barrier >> 24 && bytes % 16 == 0);
    at(to, 16), at(to + bytes - 16, 16);
    messages.push_back({&block_of(to), to & 0xFFFFFF, barrier & 0xFFFFFF, bytes, {}, from});
}

static float of_half(u32 bits) {
    uint16_t low = bits;
    _Float16 half;
    memcpy(&half, &low, 2);
    return half;
}
static u32 to_half(float value) {
    _Float16 half = value;
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
}
static float half_of(const u32 *words, int index) { return of_half(words[index / 2] >> index % 2 * 16); }

// Four matrices of 8 x 8 halves; lane l says where row l % 8 of matrix l / 8 is.
static void matrices(u32 (&a)[4], u32 from, bool transposed) {
    const auto &rows = exchange(&from, 1);
    int lane = current->index.x % 32;
    for (int m = 0; m < 4; ++m) {
        u32 two[2];
        for (int i = 0; i < 2; ++i) {
            int row = lane / 4, column = lane % 4 * 2 + i;
            if (transposed) std::swap(row, column);
            two[i] = get<uint16_t>(rows[m * 8 + row][0] + column * 2);
        }
        a[m] = two[0] | two[1] << 16;
    }
}

}  // namespace emulated

#define threadIdx (emulated::current->index)
#define blockIdx (Index{unsigned(emulated::block_index)})

static float *shared_memory() { return reinterpret_cast<float *>(emulated::current->block->memory.data()); }
static void after_kernel_before() {}
static int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }
static float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
static u32 __float_as_uint(float x) { u32 y; memcpy(&y, &x, 4); return y; }
static float __fdividef(float x, float y) { return x / y; }
static float __shfl_sync(u32, float x, int lane) { u32 mine = __float_as_uint(x); return __int_as_float(emulated::exchange(&mine, 1)[lane][0]); }
static u32 __shfl_sync(u32, u32 x, int lane) { return emulated::exchange(&x, 1)[lane][0]; }
static i64 __shfl_sync(u32, i64 x, int lane) {
    u32 mine[2];
    memcpy(mine, &x, 8);
    memcpy(&x, emulated::exchange(mine, 2)[lane], 8);
    return x;
}
static float __shfl_xor_sync(u32 all, float x, int other) { return __shfl_sync(all, x, threadIdx.x % 32 ^ other); }
static bool __all_sync(u32, bool yes) {
    u32 mine = yes, sum = 0;
    const auto &others = emulated::exchange(&mine, 1);
    for (int lane = 0; lane < 32; ++lane) sum += others[lane][0];
    return sum == 32;
}
static void __syncwarp() { __all_sync(~0u, true); }
static u32 __ballot_sync(u32, bool yes) {
    u32 mine = yes, all = 0;
    const auto &others = emulated::exchange(&mine, 1);
    for (int lane = 0; lane < 32; ++lane) all |= others[lane][0] << lane;
    return all;
}
static void __syncthreads() { emulated::meet(emulated::current->block->named[0], THREADS); }
static u64 atomicAdd(u64 *to, u64 value) { u64 before = *to; *to += value; return before; }

static u32 cluster_rank() { return emulated::current->rank; }
static u32 at_rank(u32 address, u32 rank) { return (address & 0xFFFFFF) | (rank + 1) << 24; }
static void cluster_arrive() {
    if (++emulated::whole_cluster.here == emulated::cluster_threads) emulated::whole_cluster = {0, emulated::whole_cluster.number + 1};
}
static void cluster_wait() {
    ++emulated::current->cluster_waits;
    emulated::wait_until([] { return emulated::whole_cluster.number >= emulated::current->cluster_waits; });
}
static void pair_sync(int barrier) { emulated::meet(emulated::current->block->named[barrier], 256); }
static void pair_arrive(int barrier) {
    emulated::Meeting &meeting = emulated::current->block->named[barrier];
    if (++meeting.here == 256) meeting.here = 0, ++meeting.number;
}
static void before_copies() {}
static void let_dependents_begin() {}
static void wait_for_kernel_before() {}
static void fail() { emulated::require(false); }
template <int> static void more_registers() {}
template <int> static void fewer_registers() {}
static void group_sync(int group) { emulated::meet(emulated::current->block->named[1 + group], 128); }

static void barrier_init(u32 barrier, u32 count) {
    emulated::current->block->barriers[barrier] = {int(count), int(count), 0, 0};
}
static void barriers_are_there() {}
static void barrier_expect(u32 barrier, u32 bytes) {
    emulated::Barrier &b = emulated::current->block->barriers.at(barrier);
    b.bytes += bytes, --b.pending;
    emulated::require(b.pending >= 0);  // else its phase before is not over
    b.look();
}
static void barrier_wait(u32 barrier, u32 parity) {
    const emulated::Barrier &b = emulated::current->block->barriers.at(barrier);
    emulated::wait_until([&] { return b.phase != int(parity); });
}
static void cluster_barrier_wait(u32 barrier, u32 parity) { barrier_wait(barrier, parity); }

static i64 load_fresh(const i64 *from) { return *from; }
static void load_if(bool condition, const float *from, float &value) { if (condition) value = *from; }
static uint4 load_global4(const char *from) { uint4 v; memcpy(&v, from, 16); return v; }
static void copy_from_global(u32 to, const char *from, u32 bytes, u32 barrier) { emulated::post_copy(to, barrier, from, bytes); }
static void copy_to_rank(u32 to, u32 from, u32 bytes, u32 barrier) {
    emulated::at(from + bytes - 16, 16);
    emulated::post_copy(to, barrier, emulated::at(from, 16), bytes);
}
static void barrier_arrive_remote(u32 barrier) {
    emulated::Barrier &b = emulated::block_of(barrier).barriers.at(barrier & 0xFFFFFF);
    --b.pending;
    emulated::require(b.pending >= 0);
    b.look();
}
static void barrier_arrive(u32 barrier) { barrier_arrive_remote(barrier); }

static void send(u32 to, float a, u32 barrier) { emulated::post(to, barrier, {__float_as_uint(a)}); }
static void send(u32 to, float a, float b, u32 barrier) { emulated::post(to, barrier, {__float_as_uint(a), __float_as_uint(b)}); }
static void send(u32 to, u32 a, u32 b, u32 c, u32 d, u32 barrier) { emulated::post(to, barrier, {a, b, c, d}); }

static void store_shared(u32 to, u32 value) { emulated::put(to, value); }
static void store_shared4(u32 to, float a, float b, float c, float d) { emulated::put(to, float4{a, b, c, d}); }
static void store_shared_half(u32 to, float value) { emulated::put(to, uint16_t(emulated::to_half(value))); }
static float load_shared1(u32 from) { return emulated::get<float>(from); }
static float2 load_shared2(u32 from) { return emulated::get<float2>(from); }
static float4 load_shared4(u32 from) { return emulated::get<float4>(from); }
static uint4 load_fragment(u32 from) { return emulated::get<uint4>(from); }
static void load_matrices(u32 (&a)[4], u32 from) { emulated::matrices(a, from, false); }
static void load_units(u32 from, int lane, u32 (&x)[2][2]) {
    u32 pieces[4];
    emulated::matrices(pieces, from + lane * 16, true);
    x[0][0] = pieces[0], x[0][1] = pieces[1], x[1][0] = pieces[2], x[1][1] = pieces[3];
}

static u32 halves(float low, float high) { return emulated::to_half(low) | emulated::to_half(high) << 16; }
static float exp2_fast(float x) { return exp2f(x); }

static void product(float (&d)[4], const uint4 &a, const u32 (&b)[2]) {
    u32 mine[6] = {a.x, a.y, a.z, a.w, b[0], b[1]};
    const auto &all = emulated::exchange(mine, 6);
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = 0.f;
        for (int k = 0; k < 16; ++k) {  // PTX's table of m16n8k16
            const u32 *of_a = all[row % 8 * 4 + k % 8 / 2], *of_b = all[column * 4 + k % 8 / 2];
            sum += emulated::half_of(of_a, (k / 8 * 2 + row / 8) * 2 + k % 2) * emulated::half_of(of_b + 4, k / 8 * 2 + k % 2);
        }
        d[i] += sum;
    }
}

// Products of warpgroups. They are there at once: that nobody reads them too early is not seen here.
static u64 descriptor(u32 address) { return (address & 0x3FFFF) >> 4; }
static void products_begin() {}
static void products_end() {}
template <int N> static void products_wait() {}
template <int N> static void hold(float (&)[N]) {}

namespace emulated {

// One of 64 inputs' halves, of a row of 128 bytes; `matrix` says where the first input of a step of 16 is.
static u32 swizzled_half(u64 matrix, int row, int k) {
    u32 address = u32(matrix) << 4, base = address & ~127u, column = (address & 127) / 2 + k;
    return get<uint16_t>(base + row * 128 + ((column / 8 ^ (row & 7)) << 4) + column % 8 * 2);
}

// `a`: this warp's 16 rows x 16 inputs.
template <int N> static void products_of_warp(float (&d)[N], const float (&a)[16][16], u64 b, bool add) {
    int lane = current->index.x % 32;
    for (int piece = 0; piece < N / 4; ++piece)
        for (int column = lane % 4 * 2; column < lane % 4 * 2 + 2; ++column) {
            float w[16], sums[2] = {};
            for (int k = 0; k < 16; ++k) w[k] = of_half(swizzled_half(b, piece * 8 + column, k));
            for (int half = 0; half < 2; ++half) {
                float &to = d[piece * 4 + half * 2 + column % 2];
                for (int k = 0; k < 16; ++k) sums[half] += a[lane / 4 + half * 8][k] * w[k];
                to = add ? to + sums[half] : sums[half];
            }
        }
}

}  // namespace emulated

template <int N> static void product(float (&d)[N], const u32 (&a)[4], u64 b, bool add) {
    const auto &all = emulated::exchange(a, 4);
    float rows[16][16];
    for (int row = 0; row < 16; ++row)
        for (int k = 0; k < 16; ++k) rows[row][k] = emulated::half_of(all[row % 8 * 4 + k % 8 / 2] + k / 8 * 2 + row / 8, k % 2);
    emulated::products_of_warp(d, rows, b, add);
}
static void product(float (&d)[128], u64 a, u64 b) {
    float rows[16][16];
    int warp = threadIdx.x / 32 % 4;
    for (int row = 0; row < 16; ++row)
        for (int k = 0; k < 16; ++k) rows[row][k] = emulated::of_half(emulated::swizzled_half(a, warp * 16 + row, k));
    emulated::products_of_warp(d, rows, b, true);
}

struct Arguments;
extern "C" void generate_frames(const Arguments args);
static const Arguments *emulated_arguments;
static void emulated_thread();

// Runs `grid` thread blocks, one cluster of `ctas` after the other. Returns 0, or
// 1 where all wait for each other, or where one did what a GPU does not allow.
extern "C" int emulate(const Arguments *args, int grid, int ctas, unsigned seed) {
    using namespace emulated;
    emulated_arguments = args;
    failed = false;
    messages.clear();
    random_numbers.seed(seed);
    cluster_threads = ctas * THREADS;
    for (int first = 0; first < grid; first += ctas) {
        block_index = first;
        blocks.assign(ctas, Block());
        whole_cluster = Meeting();
        std::vector<Warp> warps(cluster_threads / 32);
        std::vector<Thread> threads(cluster_threads);
        for (int i = 0; i < ctas; ++i) blocks[i].memory.assign(SHARED_BYTES, char(0xFF));  // NaN
        for (int i = 0; i < cluster_threads; ++i) {
            Thread &thread = threads[i];
            thread.stack.reset(new char[65536]);
            thread.index.x = i % THREADS, thread.rank = i / THREADS;
            thread.block = &blocks[i / THREADS], thread.warp = &warps[i / 32];
            getcontext(&thread.context);
            thread.context.uc_stack.ss_sp = thread.stack.get(), thread.context.uc_stack.ss_size = 65536;
            thread.context.uc_link = &scheduler;
            makecontext(&thread.context, emulated_thread, 0);
        }
        int left = cluster_threads, most_wait = 16;
        for (u64 turn = 0; left; ++turn) {
            if (failed || turn == 20000000) return 1;
            if (turn % 4096 == 0) {
                for (Warp &warp : warps) warp.weight = random_numbers() % 3 ? 1 : 40;
                most_wait = 1 + random_numbers() % 64;
            }
            size_t which = random_numbers() % warps.size();
            if (random_numbers() % warps[which].weight == 0) {
                auto resume = [&](int lane) {
                    current = &threads[which * 32 + lane];
                    if (current->done) return;
                    swapcontext(&scheduler, &current->context);
                    left -= current->done;
                };
                bool &moved = warps[which].moved;
                if (!moved) resume(random_numbers() % 32);  // all wait for the same
                if (moved) {
                    moved = false;
                    for (int lane = 0; lane < 32; ++lane) resume(lane);
                }
            }
            if (!messages.empty() && random_numbers() % most_wait == 0)
                for (int i = random_numbers() % messages.size(); i >= 0; --i) deliver(random_numbers() % messages.size());
        }
        if (!messages.empty()) return 1;
    }
    return 0;
}
