"""One run on an H200: is the resident kernel right, how long is a frame, where does it go.

    PYTHONPATH=.:export:legged_gym:legged_gym/isaacgym_warp:runtime:tests:tests/cases CMG_TEST_SEED=3 python tests/gpu_scratch/resident.py [tiny|engine]
"""

import os
import sys
import time

os.environ.setdefault("CMG_TEST_SEED", "3")
import torch

from cluster_case import packed_network
from cmg_runtime.backends.fused import cluster
from cmg_runtime.backends.fused.cluster import ClusterNetwork
from cmg_runtime.backends.fused.cluster_shapes import FEW, RESIDENT
from cmg_runtime.guard import Guard

CUDA = torch.device("cuda")
START = time.time()


def say(*words):
    print(f"[{time.time() - START:5.1f}s]", *words, flush=True)


generator = torch.Generator().manual_seed(11)
FRAMES = 95


def inputs(truth, rows, frames):
    commands = torch.stack([truth.commands(rows, generator) for _ in range(2)])
    return truth.states(rows, generator).cuda(), commands.repeat(frames // 2 + 1, 1, 1)[:frames].cuda().contiguous()


def tiny():
    packed, truth = packed_network(3, CUDA, hidden_dim=512, num_experts=4)
    network = ClusterNetwork(packed, CUDA)
    for shape in RESIDENT:
        rows = 19
        motion, commands = inputs(truth, rows, 2)
        motion[3, 5] = float("nan")
        low, high = torch.full((58,), -3e38, device="cuda"), torch.full((58,), 3e38, device="cuda")
        guard = Guard(low, high, truth.states(7, generator).cuda(), rows, torch.zeros((), dtype=torch.int64, device="cuda"))
        out = torch.full((2, rows, 58), float("nan"), device="cuda")
        network.rollout(motion, commands, out, guard, torch.arange(rows, device="cuda"), shape=shape)
        torch.cuda.synchronize()
        say("tiny", shape, "replaced", int(guard.replaced), "finite", bool(out.isfinite().all()))


def graph_of(run, times):
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            run()
    return graph


def median_us(run, times=4, repeats=15):
    graph = graph_of(run, times)
    graph.replay()
    pairs = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    taken = sorted(begin.elapsed_time(end) for begin, end in pairs)
    return taken[len(taken) // 2] * 1000 / times


def correctness(network, truth):
    for shape in RESIDENT:
        for rows in (1, 7, 16, 61, 64, 100):
            motion, commands = inputs(truth, rows, FRAMES)
            out = torch.full((FRAMES, rows, 58), float("nan"), device="cuda")
            network.rollout(motion, commands, out, shape=shape)
            torch.cuda.synchronize()
            few = torch.empty_like(out)
            network.rollout(motion, commands, few, shape=FEW)
            errors, single, state = [], True, motion
            for t in range(FRAMES):
                errors.append(truth.error(out[t], truth.step(state, commands[t])) if t % 19 == 0 else 0.0)
                one = torch.empty(1, rows, 58, device="cuda")
                network.rollout(state, commands[t : t + 1], one, shape=shape)
                single &= torch.equal(one[0], out[t])
                state = out[t]
            apart = (out - few).abs()
            say(f"{shape} rows {rows}: one step {max(errors):.1e}, frames one by one equal {single}, "
                f"from FEW: first {float(apart[0].max()):.1e}, of 95 median {float(apart.median()):.1e}")
        rows = 64
        motion, commands = inputs(truth, rows, FRAMES)
        expected, out = (torch.full((FRAMES, rows, 58), float("nan"), device="cuda") for _ in range(2))
        network.rollout(motion, commands, expected, shape=shape)
        other = torch.zeros((), dtype=torch.int64, device="cuda")

        def again():
            out.fill_(float("nan"))
            network.rollout(motion, commands, out, shape=shape)
            other.add_((out != expected).any())

        graph = graph_of(again, 10)
        for _ in range(200):
            graph.replay()
        say(f"{shape}: 2000 launches with other bits: {int(other)}")


def timing(network, truth):
    shapes = {"few": FEW, "res8": RESIDENT[0], "res16": RESIDENT[1]}
    say(f"{'rows':>5}" + "".join(f"{n + ' 95':>11}{n + ' 1':>9}{'us/frame':>9}" for n in shapes))
    for rows in (1, 8, 16, 32, 56, 64, 96, 112, 128, 224, 256, 336):
        line = f"{rows:>5}"
        for shape in shapes.values():
            motion, commands = inputs(truth, rows, FRAMES)
            out = torch.empty(FRAMES, rows, 58, device="cuda")
            many = median_us(lambda: network.rollout(motion, commands, out, shape=shape))
            one = median_us(lambda: network.rollout(motion, commands[:1], out[:1], shape=shape), times=10)
            line += f"{many:>11.1f}{one:>9.1f}{(many - one) / (FRAMES - 1):>9.2f}"
        say(line)


STAMPS = [  # name, text in the source, whether the stamp stands before it
    ("x here", "        if (warp < TILES) gate("),
    ("gate sent", "        if (threadIdx.x == THREADS - 1) {"),
    ("first products", "            cluster_barrier_wait(shared + LOGITS_FULL"),
    ("logits here", "            coefficients(gate_bias"),
    ("coefficients", "#pragma unroll\n            for (int tile = 0; tile < TILES; ++tile) load_mixing"),
    ("x1 there", "        middle_layer(shared, rank"),
    ("middle sent", "        if (last_of_tile) {"),
    ("sums wait", "            cluster_barrier_wait(shared + SUMS_FULL"),
    ("sums here", "            store_x2(shared"),
    ("x2 there", "            last_layer(shared, rank, tile_of_last"),
    ("last sent", "        if (finishes) {"),
    ("parts here", "            end.run("),
]


def where(packed, truth, changes=(), title=""):
    """Clocks of a frame, stamp by stamp."""
    program, launch = cluster.program, cluster.CudaKernel.launch
    buffer = torch.zeros(FRAMES, 16, 8, 16, dtype=torch.int64, device="cuda")

    def stamped(shape):
        source, options = program(shape)
        if shape in RESIDENT:
            for old, new in changes:
                assert old in source, old
                source = source.replace(old, new)
            for k, (_, text) in enumerate(STAMPS):
                assert source.count(text) == 1, (text, source.count(text))
                stamp = (f"if (lane == 0 && blockIdx.x < 16) const_cast<i64 *>(reinterpret_cast<const i64 *>(args.last_bias))"
                         f"[((i64(frame) * 16 + rank) * 8 + warp) * 16 + {k}] = clock64();\n")
                source = source.replace(text, stamp + text)
        return source, options

    def with_buffer(self, grid, threads, arguments, stream, beside=False):
        if threads == 256:
            arguments.last_bias = buffer.data_ptr()
        launch(self, grid, threads, arguments, stream, beside)

    cluster.program, cluster.CudaKernel.launch = stamped, with_buffer
    try:
        network = ClusterNetwork(packed, CUDA)
        for shape in RESIDENT:
            motion, commands = inputs(truth, 64, FRAMES)
            out = torch.empty(FRAMES, 64, 58, device="cuda")
            for _ in range(3):
                network.rollout(motion, commands, out, shape=shape)
            torch.cuda.synchronize()
            stamps = buffer.cpu()
            begin = stamps[20:90, :, :1, :1]
            frame = (stamps[21:91, :, 0, 0] - stamps[20:90, :, 0, 0]).double().mean()
            say(f"{title}{shape}: {float(frame):.0f} clocks a frame; clocks since warp 0 had x, mean over frames; over CTAs and warps:")
            since = (stamps[20:90] - begin).double()
            for k, (name, _) in enumerate(STAMPS):
                warps = {"gate sent": slice(0, shape.tiles), "parts here": slice(0, 4), "sums wait": slice(0, 4 * shape.tiles),
                         "sums here": slice(0, 4 * shape.tiles), "x2 there": slice(0, 4 * shape.tiles)}.get(name, slice(0, 8))
                ctas = slice(0, shape.rows) if name == "parts here" else slice(0, 16)
                mean = since[:, ctas, warps, k].mean(dim=0)
                say(f"    {name:>15} min {float(mean.min()):6.0f} mean {float(mean.mean()):6.0f} max {float(mean.max()):6.0f}")
    finally:
        cluster.program, cluster.CudaKernel.launch = program, launch


PARTS_BEGIN, PARTS_END = "    // A lane has two columns of two rows.", "// The end of a frame, in four warps"
PARTS_SINGLE = """#pragma unroll
    for (int i = 0; i < 4; ++i) {
        u32 owner = tile * 8 + lane % 4 * 2 + i % 2;
        u32 place = shared + PARTS + rank * 256 + (warp % 4 * 16 + i / 2 * 8 + lane / 4) * 4;
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(at_rank(place, owner)),
                     "r"(__float_as_uint(mix(products, c, i))), "r"(at_rank(shared + PARTS_FULL, owner)) : "memory");
    }
}

"""


def single_parts(source):
    begin, end = source.index(PARTS_BEGIN), source.index(PARTS_END)
    return source[:begin] + PARTS_SINGLE + source[end:]


VARIANTS = {
    "as it is": lambda source: source,
    "test_wait": lambda source: source.replace("mbarrier.try_wait.parity", "mbarrier.test_wait.parity"),
    "parts one by one": single_parts,
}


def variants(packed, truth):
    """us a frame of other ways."""
    program = cluster.program
    for title, change in VARIANTS.items():
        cluster.program = lambda shape, change=change: (
            (change(program(shape)[0]) if shape in RESIDENT else program(shape)[0]), program(shape)[1]
        )
        try:
            network = ClusterNetwork(packed, CUDA)
            line = f"variant {title:>20}"
            for shape, rows in ((RESIDENT[0], 16), (RESIDENT[1], 64)):
                motion, commands = inputs(truth, rows, FRAMES)
                out = torch.empty(FRAMES, rows, 58, device="cuda")
                many = median_us(lambda: network.rollout(motion, commands, out, shape=shape))
                one = median_us(lambda: network.rollout(motion, commands[:1], out[:1], shape=shape), times=10)
                error = truth.error(out[50], truth.step(out[49], commands[50]))
                line += f"   {rows} rows {(many - one) / (FRAMES - 1):.2f} us a frame, error {error:.1e}"
            say(line)
        finally:
            cluster.program = program


def engine():
    """As a caller has it, with the engine that engines/g1_neutral is, old and new in turns."""
    from cmg_runtime import load_engine

    resident = cluster.RESIDENT
    engines = {}
    for name, shapes in (("old", ()), ("new", resident)):
        cluster.RESIDENT = shapes
        engines[name] = load_engine("engines/g1_neutral", 4096, "cuda", "fused", "fp16", horizon=96)
    cluster.RESIDENT = resident
    command = torch.tensor([0.8, 0.0, 0.1], device="cuda")
    for name, of in engines.items():
        of.reset(command=command)
    for what in ("reset 1", "reset 16", "reset 64", "command 64"):
        count = int(what.split()[1])
        taken = {name: [] for name in engines}
        for _ in range(60):
            for name, of in engines.items():
                ids = torch.randperm(4096, device="cuda")[:count]
                commands = command.expand(count, 3) * torch.rand(count, 1, device="cuda")
                torch.cuda.synchronize()
                begin = time.perf_counter()
                of.reset(ids, command=commands) if what[0] == "r" else of.set_command(commands, ids)
                torch.cuda.synchronize()
                taken[name].append((time.perf_counter() - begin) * 1000)
        say(what, "p50 ms:", {name: round(sorted(times)[30], 3) for name, times in taken.items()})


if __name__ == "__main__":
    mode = sys.argv[1] if len(sys.argv) > 1 else ""
    if mode == "tiny":
        tiny()
    elif mode == "engine":
        engine()
    else:
        print(torch.cuda.get_device_name(), torch.__version__)
        packed, truth = packed_network(3, CUDA, hidden_dim=512, num_experts=4)
        say("loading")
        network = ClusterNetwork(packed, CUDA)
        say("capacities", network.capacities)
        correctness(network, truth)
        timing(network, truth)
        where(packed, truth)
        variants(packed, truth)
