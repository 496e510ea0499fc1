#!/usr/bin/env python3
"""How long a model takes from its files to the first token, and how close loading comes to the disk.

In one run: what the disk gives (plain reads, page cache dropped), Lane's loading with the files cold and warm, and, as
the peer, safetensors' own load_file(device="cuda"), its files one after the other and all side by side.

  bench/engine/cold_start.py --lane build/cuda/cli/lane --shape bench/shapes/llama-8b --folder /tmp --json out/cold.json
  bench/engine/cold_start.py --lane build/cuda/cli/lane --model /models/llama-8b --json out/cold.json

With --shape a random checkpoint is made in --folder and taken away afterwards. Cold: the kernel is asked to drop each
file from its page cache, which needs no rights, and it is looked at how much stayed; in a folder in memory (/dev/shm) all
of it does. What a disk's own server caches cannot be dropped from here, so the disk is read before and after, and the
faster one counts.
"""
import argparse
import concurrent.futures
import ctypes
import json
import mmap
import os
import pathlib
import shutil
import signal
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "peers" / "engine"))
from compare_engines import Clock, environment, machine, run_all  # noqa: E402

REQUEST_BYTES = 4 << 20  # a loader thread's read in Lane (kPieceBytes of lane/model/weights.cc)
READ_THREADS = 8  # and so many of a rank fit into the page-locked memory that it takes (kMostPinnedBytes)


def files_of(model: pathlib.Path) -> list[pathlib.Path]:
    return sorted(model.glob("*.safetensors"))


def cached_share(files: list[pathlib.Path]) -> float:
    """Of the files' pages, how many are in the page cache (mincore)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    pages = cached = 0
    for path in files:
        with open(path, "rb") as file:
            size = path.stat().st_size
            at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
            if at == ctypes.c_void_p(-1).value:
                raise OSError(ctypes.get_errno(), f"mapping {path}")
            there = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
            if libc.mincore(at, size, there) != 0:
                raise OSError(ctypes.get_errno(), f"mincore of {path}")
            libc.munmap(at, size)
            pages, cached = pages + len(there), cached + bytes(there).count(1)
    return cached / pages


def drop_cache(files: list[pathlib.Path]) -> float:
    """The share that stayed."""
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)  # only what is on the disk can be dropped
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    return cached_share(files)


def read_rate(files: list[pathlib.Path], direct: bool, most_s: float) -> dict:
    """Bytes per second of READ_THREADS threads that read the files in pieces, as Lane's loader does, to nowhere."""
    try:
        fds = [os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0)) for path in files]
    except OSError as error:
        return {"error": str(error)}
    pieces = iter([(fd, at) for fd, path in zip(fds, files) for at in range(0, path.stat().st_size, REQUEST_BYTES)])
    start = time.monotonic()

    def work(_) -> int:
        done, buffer = 0, mmap.mmap(-1, REQUEST_BYTES)  # begins at a page, as O_DIRECT wants it
        while time.monotonic() - start < most_s and (piece := next(pieces, None)):
            done += os.preadv(piece[0], [buffer], piece[1])
        return done

    try:
        with concurrent.futures.ThreadPoolExecutor(READ_THREADS) as pool:
            count = sum(pool.map(work, range(READ_THREADS)))
        seconds = time.monotonic() - start
        return {"bytes": count, "seconds": seconds, "bytes_per_s": count / seconds}
    except OSError as error:
        return {"error": str(error)}
    finally:
        for fd in fds:
            os.close(fd)


def run_child(command: list[str], env: dict, timeout_s: float) -> dict:
    """The JSON that a command prints, with the time it took as a process; or {"error": why there is none}."""
    start = time.monotonic()
    text, why = run_all([(command, env)], timeout_s)
    if why:
        return {"error": why}
    return json.loads(text) | {"wall_s": time.monotonic() - start, "command": " ".join(command)}


def run_lane(options, model: pathlib.Path, timeout_s: float) -> dict:
    flags = {"device": options.device, "model": model, "tp": options.tp, "batch-size": 1,
             "input-len": options.input_len, "output-len": 2, "max-model-len": options.input_len + 2,
             "max-num-seqs": 1, "num-iters-warmup": 0, "num-iters": 1}
    pairs = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    got = run_child([options.lane, "bench", "latency", *pairs, "--no-progress", "--json"], environment(), timeout_s)
    if "error" in got:
        return got
    return {"bytes": got["load"]["bytes"], "load_s": got["load"]["seconds"], "bytes_per_s": got["load"]["bytes_per_s"],
            "ready_s": got["ready_s"], "first_token_s": got["first_token_after_start_s"], "wall_s": got["wall_s"],
            "command": got["command"]}


def torch_load(model: pathlib.Path, device: str, num_threads: int) -> dict:
    """In a process of its own. Importing torch and waking the GPU are not in load_s, as they are not in Lane's. For a
    CPU load_file() only maps the files, so there the tensors are copied."""
    import torch
    from safetensors.torch import load_file

    def load(path: pathlib.Path) -> dict:
        tensors = load_file(path, device=device)
        return {name: tensor.clone() for name, tensor in tensors.items()} if device == "cpu" else tensors

    files = files_of(model)
    torch.zeros(1, device=device)
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        loaded = list(pool.map(load, files))
    if device != "cpu":
        torch.cuda.synchronize()
    seconds = time.monotonic() - start
    count = sum(tensor.nbytes for tensors in loaded for tensor in tensors.values())
    return {"bytes": count, "load_s": seconds, "bytes_per_s": count / seconds}


def run_torch(options, model: pathlib.Path, num_threads: int, timeout_s: float) -> dict:
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--lane", options.lane, "--model", str(model),
               "--device", options.device, "--torch-load", str(num_threads)]
    return run_child(command, environment(), timeout_s)


def measure(options, model: pathlib.Path, clock: Clock) -> dict:
    files, rows = files_of(model), {}
    if not files:
        raise SystemExit(f"{model}: there is no *.safetensors")

    def step(name: str, run, cold: bool = True) -> None:
        if clock.left_s() < 10:
            rows[name] = {"error": "not begun: the time was over"}
            return
        print(f"{name} ... ({clock.left_s():.0f} s left)", file=sys.stderr)
        kept = drop_cache(files) if cold else cached_share(files)
        rows[name] = run(max(5.0, clock.left_s() - 5)) | {"cached_before": kept}

    def disk(name: str) -> None:
        for how, direct in (("O_DIRECT", True), ("into the page cache", False)):
            step(f"{name}, {how}", lambda left: read_rate(files, direct, min(options.read_s, left)))

    threads = {"one after the other": 1, "side by side": len(files)} if options.peers else {}
    disk("disk before")
    step("lane, cold", lambda left: run_lane(options, model, left))
    step("lane, warm", lambda left: run_lane(options, model, left), cold=False)
    for how, count in threads.items():
        step(f"torch, {how}, cold", lambda left: run_torch(options, model, count, left))
        step(f"torch, {how}, warm", lambda left: run_torch(options, model, count, left), cold=False)
    disk("disk after")
    return rows


def print_table(model: pathlib.Path, rows: dict) -> dict:
    """Prints it; returns the ratios."""
    disk_rate = max((row["bytes_per_s"] for name, row in rows.items() if name.startswith("disk") and "error" not in row),
                    default=0)
    size = sum(path.stat().st_size for path in files_of(model))
    print(f"{model}: {size / 1e9:.2f} GB in {len(files_of(model))} files; of the disk, reads of {REQUEST_BYTES >> 20} MiB "
          f"by {READ_THREADS} threads")
    print(f"{'':<34}{'GB/s':>8}{'of disk':>9}{'load, s':>9}{'ready, s':>10}{'token, s':>10}{'cached':>8}")
    for name, row in rows.items():
        if "error" in row:
            print(f"{name:<34}{row['error']}")
            continue
        share = f"{row['bytes_per_s'] / disk_rate:.2f}" if disk_rate else "-"
        load_s = row.get("load_s", row.get("seconds"))
        rest = "".join(f"{row[key]:>10.2f}" if key in row else f"{'':>10}" for key in ("ready_s", "first_token_s"))
        print(f"{name:<34}{row['bytes_per_s'] / 1e9:>8.2f}{share:>9}{load_s:>9.2f}{rest}{100 * row['cached_before']:>6.0f} %")
    lane = rows["lane, cold"].get("bytes_per_s")
    peers = [row["bytes_per_s"] for name, row in rows.items()
             if name.startswith("torch") and name.endswith("cold") and "error" not in row]
    return {"disk_bytes_per_s": disk_rate or None, "lane_of_disk": lane / disk_rate if lane and disk_rate else None,
            "lane_over_best_torch": lane / max(peers) if lane and peers else None}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lane", required=True, help="the program")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", type=pathlib.Path, help="folder with a checkpoint")
    model.add_argument("--shape", type=pathlib.Path, help="folder with a config.json: a checkpoint is made")
    parser.add_argument("--layers", type=int, default=0, help="of the checkpoint that is made: fewer than the shape has")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("/tmp"), help="where it is made")
    parser.add_argument("--tp", type=int, default=1, help="Lane's ranks; beyond 1 there is no peer")
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--peers", choices=("torch", "none"), default="torch")
    parser.add_argument("--read-s", type=float, default=15, help="of each of the disk's four measurements, at most")
    parser.add_argument("--time-limit-s", type=float, default=300, help="for all, the checkpoint's making included")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--commit", default="", help="what is measured; goes into the file")
    parser.add_argument("--torch-load", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.peers = options.peers == "torch" and options.tp == 1
    return options


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that children and files go, too
    options = parse()
    if options.torch_load:
        print(json.dumps(torch_load(options.model, options.device, options.torch_load)))
        return
    clock, model, made = Clock(options.time_limit_s), options.model, None
    if options.shape:
        from make_checkpoint import make  # needs torch
        model = options.folder / f"lane-cold-start-{os.getpid()}"
        try:
            made = make(options.shape, model, options.layers, 0.6 * options.time_limit_s)
        except (OSError, TimeoutError) as error:
            raise SystemExit(str(error)) from None
        print(f"made {made['bytes'] / 1e9:.2f} GB in {made['seconds']:.1f} s", file=sys.stderr)
    try:
        rows = measure(options, model, clock)
        ratios = print_table(model, rows)
    finally:
        if made:
            shutil.rmtree(model, ignore_errors=True)
    if options.json:
        settings = {key: str(value) if isinstance(value, pathlib.Path) else value
                    for key, value in vars(options).items()}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({
            "schema": 1, "kind": "cold start", "commit": options.commit,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine(options),
            "settings": settings, "made": made, "rows": rows, **ratios}, indent=1) + "\n")
    if "error" in rows["lane, cold"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
