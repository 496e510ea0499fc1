#!/usr/bin/env python3
"""Lane's engine and its peers on the same GPUs, the same shape with random bf16 weights, the same batches, in one run.

Peers: `torch` (torch_graph_loop.py: compiled PyTorch, one CUDA graph a step, NCCL) and `transformers`
(transformers_generate.py: compiled, static cache, tp_plan="auto"). --lane-nccl adds Lane with NCCL under the same
engine (LANE_NCCL=only); with --nodes 2 the ranks of both are spread over emulated nodes, and only they run. Lane runs
in turns with all others: before them and after them, and the median counts. Each has its time; what fails or takes
longer has a note in place of numbers, and the others go on. A peer whose runs would not end in time has its decode steps
measured about the mean context of a run; its end to end is then worked out, and marked by ~ (end_to_end_is_extrapolated).
--json is written anew after each engine's turn.

  bench/peers/engine/compare_engines.py --lane build/cuda/cli/lane --shape bench/shapes/llama-8b --tp 1 \\
      --batches 1,4,16,32 --json out/8b.json --commit $(git rev-parse HEAD)
  bench/peers/engine/compare_engines.py --lane build/cuda/cli/lane --shape bench/shapes/llama-8b --tp 4 --peers none \\
      --lane-nccl --nodes 2 --fabric auto --json out/8b_nodes2.json
  bench/peers/engine/compare_engines.py --lane build/cuda/cli/lane --published --json out/70b_published.json

--published: Llama-70B's shape on 2 GPUs, batch 16, 2480 tokens in, 2048 out, one run of each after a short warm-up, within
285 s; all flags given beside it count. For transformers on it: --peers torch,transformers --time-limit-s 580.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TO_REPORT_S = 8  # that a peer needs at its end
PEERS = {"torch": "torch_graph_loop.py", "transformers": "transformers_generate.py"}
NOT_BEGUN_BELOW_S = 10  # of time left: nothing that loads a model ends within it
PUBLISHED = {"shape": HERE.parents[1] / "shapes" / "llama-70b", "tp": 2, "batches": "16", "input_len": 2480,
             "output_len": 2048, "iterations": 1, "lane_rounds": 1, "lane_nccl": True, "peers": "torch",
             "lane_warmup_output_len": 16, "timeout_s": 150, "peer_timeout_s": 300, "time_limit_s": 285}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 304}


class Clock:
    def __init__(self, limit_s: float):
        self.start, self.limit_s = time.monotonic(), limit_s

    def left_s(self) -> float:
        return self.limit_s - (time.monotonic() - self.start)


def nccl_folder() -> str:
    """Where PyTorch's NCCL is: Lane looks for libnccl.so.2 where the loader does."""
    spec = importlib.util.find_spec("nvidia.nccl") if importlib.util.find_spec("nvidia") else None
    return str(pathlib.Path(list(spec.submodule_search_locations)[0]) / "lib") if spec else ""


def environment(**more: str) -> dict:
    """NVLink multicast is off for all alike, unless the caller says otherwise: not every machine lends it."""
    env = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1"} | dict(os.environ) | more
    env["LD_LIBRARY_PATH"] = ":".join(part for part in (nccl_folder(), env.get("LD_LIBRARY_PATH", "")) if part)
    return env


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def run_all(commands: list[tuple[list[str], dict]], timeout_s: float) -> tuple[str, str]:
    """Runs commands side by side, each in a session of its own; (what the first printed, why it failed or "")."""
    with tempfile.TemporaryDirectory() as folder:
        logs = [pathlib.Path(folder) / f"{i}" for i in range(len(commands))]
        children = []
        try:
            for (command, env), log in zip(commands, logs):
                with open(log, "wb") as out, open(f"{log}.err", "wb") as err:
                    children.append(subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                                     start_new_session=True))
            deadline, why = time.monotonic() + timeout_s, ""
            for child, log in zip(children, logs):
                try:
                    status = child.wait(max(0.0, deadline - time.monotonic()))
                    if status != 0 and not why:
                        text = pathlib.Path(f"{log}.err").read_text(errors="replace")
                        why = f"exit status {status}: {last_line(text)}"
                        sys.stderr.write(text[-4000:])
                except subprocess.TimeoutExpired:
                    why = why or f"not done within {timeout_s:.0f} s"
        finally:
            for child in children:  # ranks that a killed parent left are in its session
                try:
                    os.killpg(child.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                child.wait()
        return logs[0].read_text(errors="replace"), why


def lane_arguments(options, batch: int) -> list[str]:
    length = options.input_len + options.output_len
    flags = {"device": options.device, "model": options.shape, "load-format": "dummy", "dtype": "bfloat16",
             "batch-size": batch, "input-len": options.input_len, "output-len": options.output_len,
             "num-iters-warmup": 1, "num-iters": options.iterations, "max-model-len": length, "max-num-seqs": batch,
             "max-num-batched-tokens": options.lane_chunk}
    if options.lane_warmup_output_len > 0:
        flags["warmup-output-len"] = options.lane_warmup_output_len
    pairs = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [options.lane, "bench", "latency", *pairs, "--no-progress", "--json", *options.lane_args.split()]


def lane_commands(options, batch: int, with_nccl: bool) -> list[tuple[list[str], dict]]:
    """One command where Lane starts its ranks itself; on emulated nodes a command for each rank."""
    chosen = {"LANE_NCCL": "only" if with_nccl else "off"}
    arguments = lane_arguments(options, batch)
    if options.nodes == 1:
        return [(arguments + ["--tp", str(options.tp)], environment(**chosen))]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job, secret, each = secrets.token_hex(8), secrets.token_hex(16), options.tp // options.nodes
    commands = []
    for rank in range(options.tp):
        node = f"node{rank // each}"
        # NCCL takes ranks with different NCCL_HOSTID for different hosts, and goes through sockets between them.
        env = environment(RANK=str(rank), WORLD_SIZE=str(options.tp), LOCAL_RANK=str(rank),
                          LOCAL_WORLD_SIZE=str(options.tp), LANE_JOB=job, LANE_SECRET=secret, LANE_HOST=node,
                          LANE_RENDEZVOUS=f"127.0.0.1:{port}", LANE_GPU_FABRIC=options.fabric, NCCL_HOSTID=node,
                          NCCL_NET="Socket", NCCL_SOCKET_IFNAME="lo", **chosen)
        commands.append((arguments, env))
    return commands


def run_lane(options, batch: int, with_nccl: bool, clock: Clock) -> dict:
    """One run's numbers, or {"error": why there are none}."""
    if clock.left_s() < NOT_BEGUN_BELOW_S:
        return {"error": "not begun: the time was over"}
    commands = lane_commands(options, batch, with_nccl)
    begin = time.monotonic()
    text, why = run_all(commands, min(options.timeout_s, clock.left_s()))
    if why:
        return {"error": why}
    out = json.loads(text)
    return {"decode_step_p50_s": out["decode_step_p50_s"], "decode_step_p99_s": out["decode_step_p99_s"],
            "prefill_s": out["prefill_s"], "end_to_end_s": out["percentiles"]["50"],
            "bytes_per_step": out["bytes_per_step"], "wall_s": time.monotonic() - begin,
            "command": " ".join(commands[0][0]), "report": out}


def run_peer(options, name: str, clock: Clock) -> dict:
    """What a peer measured before it ended, and why it ended if that was too early."""
    limit_s = min(options.peer_timeout_s, clock.left_s())
    if limit_s < NOT_BEGUN_BELOW_S:
        return {"error": "not begun: the time was over", "results": []}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "result.json"
        command = [sys.executable, str(HERE / PEERS[name]), "--shape", str(options.shape), "--tp", str(options.tp),
                   "--batches", options.batches, "--input-len", str(options.input_len), "--output-len",
                   str(options.output_len), "--iterations", str(options.iterations), "--device", options.device,
                   "--seconds-left", str(round(limit_s - TO_REPORT_S)), "--json", str(path)]
        if name == "transformers":
            command += ["--time-limit-s", str(round(limit_s * 0.75))]
        begin = time.monotonic()
        _, why = run_all([(command, environment())], limit_s)
        found = json.loads(path.read_text()) if path.exists() else {"results": []}
    return found | {"command": " ".join(command), "wall_s": time.monotonic() - begin, **({"error": why} if why else {})}


def median_of(runs: list[dict]) -> dict:
    """Lane's turns as one row."""
    good = [run for run in runs if "error" not in run]
    if not good:
        return {"error": runs[0]["error"], "runs": runs}
    keys = ("decode_step_p50_s", "decode_step_p99_s", "prefill_s", "end_to_end_s")
    return {key: statistics.median(run[key] for run in good) for key in keys} | {
        "bytes_per_step": good[0]["bytes_per_step"], "runs": runs,
        "read_bytes_per_s": statistics.median(run["report"]["read_bandwidth_bytes_per_s"] for run in good)}


def compare(options, batches: list[int], clock: Clock, save) -> dict:
    """Rows by engine and batch; every engine has a row for each batch. save(rows) after each turn."""
    ways = {"lane": False} | ({"lane, NCCL": True} if options.lane_nccl else {})
    turns: dict = {way: {batch: [] for batch in batches} for way in ways}

    def lane_turn() -> None:
        for batch in batches:
            for way, with_nccl in ways.items():
                turns[way][batch].append(run_lane(options, batch, with_nccl, clock))
        save(rows())

    def rows() -> dict:
        engines = {way: {"results": {batch: median_of(runs) for batch, runs in of_way.items()}}
                   for way, of_way in turns.items()}
        for name, found in peers.items():
            of_peer = {row["batch"]: row for row in found["results"]}
            missing = {"error": found.get("error", "it left this batch out")}
            engines[name] = found | {"results": {batch: of_peer.get(batch, missing) for batch in batches}}
        return engines

    peers: dict = {}
    lane_turn()
    for name in options.peers:
        print(f"{name} ... ({clock.left_s():.0f} s left)", file=sys.stderr)
        peers[name] = run_peer(options, name, clock)
        save(rows())
    for _ in range(options.lane_rounds - 1):
        lane_turn()
    return rows()


def print_table(title: str, key: str, unit_s: float, engines: dict, batches: list[int], per_s, notes: list) -> None:
    """Each engine's time, what it makes of it a second, and how many times Lane's time that is."""
    def mark_of(note: str) -> str:
        if note not in notes:
            notes.append(note)
        return f"[{notes.index(note) + 1}]"

    print(f"\n{title}")
    names = list(engines)
    print(f"{'batch':>5}" + "".join(f"{name:>{20 if name == 'lane' else 30}}" for name in names))
    for batch in batches:
        lane = engines["lane"]["results"][batch]
        line = f"{batch:>5}"
        for name in names:
            row = engines[name]["results"][batch]
            if "error" in row:
                line += f"{mark_of(f'{name}, batch {batch}: ' + row['error']):>{20 if name == 'lane' else 30}}"
                continue
            time_text = f"{row[key] / unit_s:.3f}"
            if key == "end_to_end_s" and row.get("end_to_end_is_extrapolated"):
                time_text = mark_of(
                    f"{name}, batch {batch}: not measured but worked out from the prefill and {row['decode_steps_run']} of "
                    f"{row['decode_steps_of_a_run']} decode steps about the mean context") + "~" + time_text
            line += f"{time_text:>{10 if name == 'lane' else 12}} {per_s(batch) / row[key]:>9.1f}"
            if name != "lane":
                line += f" {row[key] / lane[key]:>6.2f}x" if "error" not in lane else f"{'-':>8}"
        print(line)


def print_floor(options, rows: dict) -> None:
    """By the read rate that was given, or else by what Lane measured on all GPUs right after each run."""
    print("\nLane's floor, bytes of a step / TB/s of all ranks, and the share reached")
    for batch, row in rows.items():
        rate = options.tp * options.read_tb_per_s * 1e12 or row.get("read_bytes_per_s", 0)
        if rate > 0 and "error" not in row:
            floor_s = row["bytes_per_step"] / rate
            print(f"{batch:>5}{floor_s * 1e3:>10.3f} ms at {rate * 1e-12:.3g} TB/s"
                  f"{100 * floor_s / row['decode_step_p50_s']:>8.1f} %")


def print_all(options, engines: dict, batches: list[int]) -> None:
    where = f"tp {options.tp}" + (f" on {options.nodes} emulated nodes ({options.fabric})" if options.nodes > 1 else "")
    print(f"{options.shape.name}, bf16, {where}; {options.input_len} tokens in, {options.output_len} out")
    notes: list[str] = []
    print_table("decode step, p50: ms, tokens/s, and how many times Lane's time", "decode_step_p50_s", 1e-3, engines,
                batches, lambda batch: batch, notes)
    print_table("prefill: s, tokens in/s, and how many times Lane's time", "prefill_s", 1, engines, batches,
                lambda batch: batch * options.input_len, notes)
    print_table("end to end: s, tokens out/s, and how many times Lane's time", "end_to_end_s", 1, engines, batches,
                lambda batch: batch * options.output_len, notes)
    print_floor(options, engines["lane"]["results"])
    if notes:
        print("\n" + "\n".join(f"[{i}] {note}" for i, note in enumerate(notes, 1)))


def output_of(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def machine(options) -> dict:
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    return {"gpus": output_of(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]).splitlines(),
            "cpus": os.cpu_count(), "lane": output_of([options.lane, "--version"]), "python": sys.version.split()[0],
            "multicast": environment()["NCCL_NVLS_ENABLE"] != "0"}


def save_json(options, where: dict, engines: dict) -> None:
    if not options.json:
        return
    settings = {key: str(value) if isinstance(value, pathlib.Path) else value for key, value in vars(options).items()}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"schema": 1, "kind": "engine comparison", "commit": options.commit,
                                        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": where,
                                        "settings": settings, "engines": engines}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lane", required=True, help="the program")
    parser.add_argument("--shape", type=pathlib.Path, help="folder with a config.json")
    parser.add_argument("--published", action="store_true", help="the published workload, as told above")
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--batches", default="1,4,16,32")
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=2, help="runs counted of each engine, each turn and batch")
    parser.add_argument("--peers", default="torch,transformers", help="of torch, transformers; or none")
    parser.add_argument("--lane-rounds", type=int, default=2, help="turns of Lane: the first comes before the peers")
    parser.add_argument("--lane-nccl", action="store_true", help="Lane with NCCL, too")
    parser.add_argument("--lane-chunk", type=int, default=8192, help="Lane's --max-num-batched-tokens")
    parser.add_argument("--lane-warmup-output-len", type=int, default=0, help="tokens of Lane's warm-up; 0: a whole run")
    parser.add_argument("--lane-args", default="", help="more flags for lane bench latency, in one string")
    parser.add_argument("--nodes", type=int, default=1, help="emulated nodes that the ranks are spread over; no peers")
    parser.add_argument("--fabric", default="auto", help="LANE_GPU_FABRIC: auto (proxy over TCP) or p2p")
    parser.add_argument("--read-tb-per-s", type=float, default=0, help="of one GPU, for the floor; 0: as Lane measures")
    parser.add_argument("--time-limit-s", type=float, default=540, help="for all; after that nothing is begun")
    parser.add_argument("--timeout-s", type=float, default=120, help="of one run of Lane")
    parser.add_argument("--peer-timeout-s", type=float, default=180, help="of a peer with all its batches")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="two narrow layers: to try the script")
    parser.add_argument("--json", type=pathlib.Path, help="write all numbers and commands here")
    parser.add_argument("--commit", default="", help="what is measured; goes into the file")
    if parser.parse_args().published:
        parser.set_defaults(**PUBLISHED)
    options = parser.parse_args()
    if not options.shape:
        parser.error("--shape: give a folder with a config.json, such as bench/shapes/llama-8b")
    options.peers = [] if options.peers == "none" or options.nodes > 1 else options.peers.split(",")
    if unknown := [name for name in options.peers if name not in PEERS]:
        parser.error(f"--peers {','.join(unknown)}: there are {', '.join(PEERS)}, none")
    if options.lane_nccl and options.tp == 1:
        parser.error("--lane-nccl compares all-reduces: it needs --tp 2 or more")
    if options.tp % options.nodes != 0:
        parser.error(f"--nodes {options.nodes} does not divide --tp {options.tp}")
    return options


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that children end, too
    options = parse()
    batches = [int(part) for part in options.batches.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        if options.tiny:
            config = json.loads((options.shape / "config.json").read_text()) | TINY
            options.shape = pathlib.Path(folder) / "tiny"
            options.shape.mkdir()
            (options.shape / "config.json").write_text(json.dumps(config))
        where = machine(options)
        engines = compare(options, batches, Clock(options.time_limit_s), lambda rows: save_json(options, where, rows))
    print_all(options, engines, batches)
    save_json(options, where, engines)
    if any("error" in row for row in engines["lane"]["results"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
