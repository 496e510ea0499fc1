#!/usr/bin/env python3
"""PyTorch's all-reduces in CUDA graphs, to be put beside `lane bench allreduce`:

    torchrun --nproc-per-node 4 bench/peers/cuda/torch_all_reduce.py 8192 262144 1048576 --replays 200

One process a GPU. For every size (bytes) and algorithm rank 0 prints a JSON object: microseconds per call of the
slowest rank of each replay, in graphs of 20 calls and of one.
"""

import argparse
import json
import os

os.environ["NCCL_NVLS_ENABLE"] = "0"  # no NVLink multicast
os.environ["TORCH_SYMM_MEM_DISABLE_MULTICAST"] = "1"

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symm_mem

DELAY_CYCLES = 600_000  # about 0.3 ms, in which the host enqueues what is timed


def algorithms(data, shared, out, group):
    """(name, what is summed, where the sum goes, the call). What works in place is given its input anew before each
    replay, so that its sums stay finite."""
    ops = torch.ops.symm_mem
    yield "NCCL, dist.all_reduce", data, data, lambda: dist.all_reduce(data)
    yield "symm_mem one-shot", shared, out, lambda: ops.one_shot_all_reduce_out(shared, "sum", group, out)
    yield "symm_mem two-shot", shared, shared, lambda: ops.two_shot_all_reduce_(shared, "sum", group)


def capture(call, calls):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is allocated or loaded at a first call must not be in the graph
        call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # NCCL's watchdog is another thread
        for _ in range(calls):
            call()
    return graph


def check(name, values, source, result, graph):
    """One call's sum against a sum in float64: an error of a bf16 rounding per rank is let pass."""
    source.copy_(values)
    torch.cuda.synchronize()
    dist.barrier()
    graph.replay()
    everyones = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, values)
    expected = torch.stack(everyones).double().sum(0)
    worst = (result.double() - expected).abs().max().item()
    bound = 2**-8 * dist.get_world_size() * torch.stack(everyones).double().abs().sum(0).max().item()
    if not worst <= bound:
        raise RuntimeError(f"{name}: the sum is off by {worst}, more than {bound}")


def measure(graph, calls, replays, source, values, barrier):
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = torch.empty(replays, device="cuda")
    for replay in range(-5, replays):
        source.copy_(values)
        torch.cuda._sleep(DELAY_CYCLES)
        barrier()  # on the GPUs: all ranks start together
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if replay >= 0:
            times[replay] = begin.elapsed_time(end) * 1000 / calls
    dist.all_reduce(times, dist.ReduceOp.MAX)
    times = times.sort().values.tolist()
    return times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="+", help="bytes of a bf16 vector")
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--calls", type=int, default=20, help="calls in the longer graph")
    arguments = parser.parse_args()

    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", os.environ["RANK"])))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", device_id=device)
    group = dist.group.WORLD.group_name
    torch.manual_seed(dist.get_rank())
    memory = symm_mem.empty(max(arguments.sizes) // 2, dtype=torch.bfloat16, device=device)
    handle = symm_mem.rendezvous(memory, group)
    for size in arguments.sizes:
        count = size // 2
        values = torch.randn(count, device=device).to(torch.bfloat16)
        data, out = torch.empty_like(values), torch.empty_like(values)
        for name, source, result, call in algorithms(data, memory[:count], out, group):
            answer = {"bytes": size, "algorithm": name, "torch": torch.__version__}
            answer["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
            for calls in (arguments.calls, 1):
                graph = capture(call, calls)
                if calls == 1:
                    check(name, values, source, result, graph)
                p50, p99 = measure(graph, calls, arguments.replays, source, values, handle.barrier)
                answer[f"graph_of_{calls}"] = {"p50_us": round(p50, 3), "p99_us": round(p99, 3)}
            if dist.get_rank() == 0:
                print(json.dumps(answer), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
