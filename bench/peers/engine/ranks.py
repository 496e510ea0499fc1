"""What the PyTorch peers share: a process for each GPU, shapes, clocks, time that is dealt out, and results that survive
what comes later."""
import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import statistics
import time

# NVLink multicast is off for all, Lane included, unless the caller says otherwise: not every machine lends it.
os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
os.environ.setdefault("TORCH_SYMM_MEM_DISABLE_MULTICAST", "1")

STARTED = time.monotonic()  # importing torch takes seconds of the time that is left

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

LEAST_STEPS = 32  # of decoding, where a run is cut

TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 304, "max_position_embeddings": 512}


def add_arguments(parser) -> None:
    parser.add_argument("--shape", type=pathlib.Path, required=True, help="folder with a config.json")
    parser.add_argument("--tp", type=int, default=1, help="GPUs, a process on each")
    parser.add_argument("--batches", default="1,4,16,32")
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=2, help="runs counted, after one that is not")
    parser.add_argument("--seconds-left", type=float, default=0,
                        help="for this process; runs that would not end in time are fewer, then cut, and say so")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of two narrow layers in place of the shape")
    parser.add_argument("--json", type=pathlib.Path, help="results; written anew after each batch")


def load_config(options) -> dict:
    return json.loads((options.shape / "config.json").read_text()) | (TINY if options.tiny else {})


def batches_of(options) -> list[int]:
    return [int(part) for part in options.batches.split(",")]


@dataclasses.dataclass
class Runs:
    """How a batch is measured."""
    count: int  # of whole runs; 0: there is time only for a part of one
    steps: int  # of decoding, in each
    past: int  # tokens of each sequence before the first step
    warm_ups: int = 0  # whole runs before, which do not count

    @property
    def is_cut(self) -> bool:
        return self.count == 0


def runs_that_fit(options, device, prefill_s: float, step_s: float, warm_ups: int = 0) -> Runs:
    """As many whole runs as were asked for and as time is left for, warm-ups the first to go; else so many steps as fit,
    about the mean context of a whole run. The same on all ranks."""
    whole = Runs(options.iterations, options.output_len - 1, options.input_len, warm_ups)
    if options.seconds_left <= 0:
        return whole
    left_s = options.seconds_left - (time.monotonic() - options.started)
    of_one = 1.05 * (prefill_s + whole.steps * step_s)
    fit = max(0, int(left_s / of_one))
    whole.warm_ups = max(0, min(warm_ups, fit - 1))
    whole.count = min(whole.count, fit - whole.warm_ups)
    if whole.count == 0:
        steps = min(whole.steps, max(LEAST_STEPS, int((left_s - 2 * prefill_s) / (1.05 * step_s))))
        whole.past, whole.steps = options.input_len + (whole.steps - steps) // 2, steps
    told = torch.tensor(dataclasses.astuple(whole), device=device)
    if dist.is_initialized():
        dist.broadcast(told, 0)
    return Runs(*told.tolist())


def of_cut_run(options, runs: Runs, prefill_s: float, gaps_s: list[float]) -> dict:
    """What a row says of a run that was cut. Its end to end is worked out, not measured."""
    mean_s = statistics.fmean(gaps_s)
    return {"prefill_s": prefill_s, "end_to_end_s": prefill_s + (options.output_len - 1) * mean_s,
            "end_to_end_is_extrapolated": True, "decode_steps_run": len(gaps_s), "decode_steps_of_a_run":
            options.output_len - 1, "past_at_first_step": runs.past}


def _run_rank(rank: int, work, options, port: int) -> None:
    size = options.tp
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    device = torch.device("cuda", rank) if options.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", rank=rank, world_size=size,
                                **({"device_id": device} if device.type == "cuda" else {}))
    try:
        work(rank, device, options)
    finally:
        if size > 1:
            dist.destroy_process_group()


def run_ranks(work, options) -> None:
    """work(rank, device, options) in a process for each rank; torch.distributed is up where there are several."""
    options.started = STARTED  # CLOCK_MONOTONIC is one for all processes; each would have a STARTED of its own
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if options.tp == 1:
        _run_rank(0, work, options, port)
    else:
        torch.multiprocessing.spawn(_run_rank, args=(work, options, port), nprocs=options.tp)


def settle(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def now(device: torch.device) -> float:
    settle(device)
    return time.perf_counter()


def summary(gaps_s: list[float]) -> dict:
    """p50 and p99 of the times between tokens."""
    ordered = sorted(gaps_s)
    return {"decode_step_p50_s": statistics.median(ordered),
            "decode_step_p99_s": ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]}


class Results:
    """Rank 0's numbers, one dictionary a batch."""

    def __init__(self, rank: int, options, about: dict):
        self.rank, self.path = rank, options.json
        self.all = about | {"torch": torch.__version__, "tp": options.tp, "results": []}
        if torch.cuda.is_available():
            self.all["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))

    def add(self, result: dict) -> None:
        if self.rank != 0:
            return
        self.all["results"].append(result)
        print(json.dumps(result), flush=True)
        if self.path:
            self.path.write_text(json.dumps(self.all, indent=1) + "\n")

    @contextlib.contextmanager
    def row(self, batch: int):
        """A dictionary to fill for this batch. Where memory ran out, the row says so; all ranks run out alike."""
        result = {"batch": batch}
        try:
            yield result
        except torch.OutOfMemoryError as error:
            result["error"] = f"out of memory: {str(error).splitlines()[0]}"
            torch.cuda.empty_cache()
        self.add(result)
