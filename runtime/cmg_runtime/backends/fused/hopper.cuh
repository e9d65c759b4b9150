// Instructions of Hopper GPUs (compute capability 9.0) that CUDA C++ has no functions for: barriers in shared memory, copies and
// stores that report to them, clusters of thread blocks, matrix products of warpgroups. Put in front of a kernel's source.
// Addresses of shared memory are 32-bit, as `__cvta_generic_to_shared` gives them.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

__device__ __forceinline__ u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// The same shared address in another CTA of the cluster.
__device__ __forceinline__ u32 at_rank(u32 address, u32 rank) {
    u32 mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
    return mapped;
}

// It orders no memory: barriers' beginnings have a fence of their own.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

__device__ __forceinline__ void group_sync(int group) {
    asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
}

// Barriers of two groups of 128 threads: one waits there, the other does not.
__device__ __forceinline__ void pair_sync(int barrier) { asm volatile("bar.sync %0, 256;" ::"r"(barrier) : "memory"); }
__device__ __forceinline__ void pair_arrive(int barrier) { asm volatile("bar.arrive %0, 256;" ::"r"(barrier) : "memory"); }

// What this thread has read or written in shared memory comes before the copies that follow.
__device__ __forceinline__ void before_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void let_dependents_begin() { asm volatile("griddepcontrol.launch_dependents;"); }
__device__ __forceinline__ void wait_for_kernel_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void fail() { asm volatile("trap;"); }

template <int N>
__device__ __forceinline__ void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N>
__device__ __forceinline__ void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

__device__ __forceinline__ void barrier_init(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

// Barriers' beginnings, before the cluster's other CTAs and copies use them.
__device__ __forceinline__ void barriers_are_there() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Says that something has been read, and orders nothing else: a release would wait for all that this thread has written.
__device__ __forceinline__ void barrier_arrive_remote(u32 barrier) {
    asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Waits until the phase of this parity is over.
#define BARRIER_WAIT(NAME, SEMANTICS)                                                                 \
    __device__ __forceinline__ void NAME(u32 barrier, u32 parity) {                                   \
        u32 done;                                                                                     \
        do {                                                                                          \
            asm volatile("{ .reg .pred p;\n"                                                          \
                         "mbarrier.try_wait.parity" SEMANTICS ".shared::cta.b64 p, [%1], %2;\n"       \
                         "selp.u32 %0, 1, 0, p; }"                                                    \
                         : "=r"(done)                                                                 \
                         : "r"(barrier), "r"(parity)                                                  \
                         : "memory");                                                                 \
        } while (!done);                                                                              \
    }

// Of a barrier that only this CTA's threads and copies arrive at.
BARRIER_WAIT(barrier_wait, "")
// Of one that other CTAs of the cluster arrive at: what they wrote before is seen behind it.
BARRIER_WAIT(cluster_barrier_wait, ".acquire.cluster")

// Past the L1 cache: a kernel that begins beside another one could find there what the address held before.
__device__ __forceinline__ i64 load_fresh(const i64 *from) {
    i64 value;
    asm volatile("ld.global.cg.s64 %0, [%1];" : "=l"(value) : "l"(from));
    return value;
}

// The same without a branch, so that the next load does not wait for this one.
__device__ __forceinline__ void load_if(bool condition, const float *from, float &value) {
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.cg.f32 %0, [%1]; }"
                 : "+f"(value)
                 : "l"(from), "r"(int(condition)));
}

__device__ __forceinline__ void copy_from_global(u32 to, const char *from, u32 bytes, u32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
        "r"(bytes), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void copy_to_rank(u32 to, u32 from, u32 bytes, u32 barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "r"(from), "r"(bytes), "r"(barrier)
        : "memory");
}

__device__ __forceinline__ void send(u32 to, float a, u32 barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to),
                 "r"(__float_as_uint(a)), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ void send(u32 to, float a, float b, u32 barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(to),
                 "r"(__float_as_uint(a)), "r"(__float_as_uint(b)), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ void send(u32 to, u32 a, u32 b, u32 c, u32 d, u32 barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
                 "r"(a), "r"(b), "r"(c), "r"(d), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ void store_shared(u32 to, u32 value) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
}

__device__ __forceinline__ void store_shared4(u32 to, float a, float b, float c, float d) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

__device__ __forceinline__ void store_shared_half(u32 to, float value) {
    asm volatile("{ .reg .b16 h; cvt.rn.f16.f32 h, %1; st.shared.b16 [%0], h; }" ::"r"(to), "f"(value) : "memory");
}

__device__ __forceinline__ float4 load_shared4(u32 from) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(from) : "memory");
    return v;
}

__device__ __forceinline__ float2 load_shared2(u32 from) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(from) : "memory");
    return v;
}

__device__ __forceinline__ float load_shared1(u32 from) {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(from) : "memory");
    return v;
}

// Of what nobody writes while the kernel runs.
__device__ __forceinline__ uint4 load_global4(const char *from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}

__device__ __forceinline__ void load_matrices(u32 (&a)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(from)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(u32 (&a)[4], u32 from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(from)
                 : "memory");
}

__device__ __forceinline__ u32 halves(float low, float high) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most N groups of products are still under way.
template <int N>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// The compiler may not move what reads d in front of this.
template <int N>
__device__ __forceinline__ void hold(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// A matrix of rows of 128 bytes whose 16-byte pieces are swizzled in groups of 8 rows; 64 columns of K.
__device__ __forceinline__ u64 descriptor(u32 address) {
    return u64((address & 0x3FFFF) >> 4) | (u64(1024 >> 4) << 32) | (u64(1) << 62);
}

// Products of 64 rows and N columns over 16 of K, added to an accumulator. Rows come from registers (without `add` the
// accumulator is taken for zero) or from shared memory, columns from shared memory.

#define NAMES_OF_4 "%0, %1, %2, %3"
#define NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_16 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_32 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define NAMES_48 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_64 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define NAMES_80 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NAMES_96 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define NAMES_112 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define NAMES_OF_32 NAMES_0 ", " NAMES_16
#define NAMES_OF_64 NAMES_OF_32 ", " NAMES_32 ", " NAMES_48
#define NAMES_OF_128 NAMES_OF_64 ", " NAMES_64 ", " NAMES_80 ", " NAMES_96 ", " NAMES_112
#define OPERANDS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define OPERANDS_OF_4 OPERANDS_4(0)
#define OPERANDS_16(i) OPERANDS_4(i), OPERANDS_4(i + 4), OPERANDS_4(i + 8), OPERANDS_4(i + 12)
#define OPERANDS_OF_32 OPERANDS_16(0), OPERANDS_16(16)
#define OPERANDS_OF_64 OPERANDS_OF_32, OPERANDS_16(32), OPERANDS_16(48)
#define OPERANDS_OF_128 OPERANDS_OF_64, OPERANDS_16(64), OPERANDS_16(80), OPERANDS_16(96), OPERANDS_16(112)

// A0..A3, B, ADD: the names of the operands behind the accumulator's.
#define PRODUCT_FROM_REGISTERS(N, COUNT, A0, A1, A2, A3, B, ADD)                                                   \
    __device__ __forceinline__ void product(float (&d)[COUNT], const u32 (&a)[4], u64 b, bool add) {               \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, " ADD ", 0;\n"                                                \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 {" NAMES_OF_##COUNT                   \
                     "}, {" A0 ", " A1 ", " A2 ", " A3 "}, " B ", p, 1, 1, 0; }"                                   \
                     : OPERANDS_OF_##COUNT                                                                         \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)));                         \
    }

PRODUCT_FROM_REGISTERS(8, 4, "%4", "%5", "%6", "%7", "%8", "%9")
PRODUCT_FROM_REGISTERS(64, 32, "%32", "%33", "%34", "%35", "%36", "%37")
PRODUCT_FROM_REGISTERS(128, 64, "%64", "%65", "%66", "%67", "%68", "%69")
PRODUCT_FROM_REGISTERS(256, 128, "%128", "%129", "%130", "%131", "%132", "%133")

__device__ __forceinline__ void product(float (&d)[128], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" NAMES_OF_128 "}, %128, %129, 1, 1, 1, 0, 0;"
                 : OPERANDS_OF_128
                 : "l"(a), "l"(b));
}

// Products within a warp: 16 outputs x 16 inputs of weights, a fragment of 16 bytes a lane, times 16 inputs of 8 rows.
__device__ __forceinline__ void product(float (&d)[4], const uint4 &a, const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ uint4 load_fragment(u32 from) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
    return v;
}

// The other operand of two steps of 16 inputs, which lie as [32 units, 8 rows] in half precision.
__device__ __forceinline__ void load_units(u32 from, int lane, u32 (&x)[2][2]) {
    u32 pieces[4];
    load_matrices_transposed(pieces, from + lane * 16);
    x[0][0] = pieces[0], x[0][1] = pieces[1], x[1][0] = pieces[2], x[1][1] = pieces[3];
}
