#!/usr/bin/env python3
"""Writes a checkpoint of a shape in bench/shapes with random bfloat16 weights, in safetensors shards as Hugging Face
has them: something to load where there is no real one. Fast: one block of random values is made and written again and
again. The files are on the disk when it ends (fsync).

  bench/engine/make_checkpoint.py --shape bench/shapes/llama-8b --out /tmp/8b

Weights are normal with deviation 0.02, gains are 1. No tokenizer: for commands that take token ids, such as
`lane bench latency`.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import struct
import time

import torch

SHARD_BYTES = 2_000_000_000  # less than the usual 5 GB: several are written side by side
BLOCK_ELEMENTS = 33_554_393  # 64 MiB; a prime, so that rows of matrices do not repeat
ONE = b"\x80\x3f"  # 1.0 in bfloat16, little endian


def tensors_of(config: dict) -> list[tuple[str, list[int]]]:
    """Name and shape of each tensor, in the order of a forward pass."""
    if config["model_type"] != "llama":
        raise SystemExit(f"model_type {config['model_type']}: only llama's tensors are known here")
    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    tensors = [("model.embed_tokens.weight", [vocab, hidden])]
    for i in range(config["num_hidden_layers"]):
        layer = {"input_layernorm": [hidden], "self_attn.q_proj": [q, hidden], "self_attn.k_proj": [kv, hidden],
                 "self_attn.v_proj": [kv, hidden], "self_attn.o_proj": [hidden, q],
                 "post_attention_layernorm": [hidden], "mlp.gate_proj": [ffn, hidden], "mlp.up_proj": [ffn, hidden],
                 "mlp.down_proj": [hidden, ffn]}
        tensors += [(f"model.layers.{i}.{name}.weight", shape) for name, shape in layer.items()]
    tensors.append(("model.norm.weight", [hidden]))
    if not config.get("tie_word_embeddings"):
        tensors.append(("lm_head.weight", [vocab, hidden]))
    return tensors


def bytes_of(shape: list[int]) -> int:
    count = 2
    for size in shape:
        count *= size
    return count


def into_shards(tensors: list, most_bytes: int) -> list[list]:
    shards, filled = [[]], 0
    for name, shape in tensors:
        if shards[-1] and filled + bytes_of(shape) > most_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += bytes_of(shape)
    return shards


def random_block(seed: int) -> memoryview:
    values = torch.empty(BLOCK_ELEMENTS, dtype=torch.bfloat16)
    values.normal_(0, 0.02, generator=torch.Generator().manual_seed(seed))
    return memoryview(values.view(torch.uint8).numpy())


def write_shard(path: pathlib.Path, tensors: list, block: memoryview, first: int, deadline: float) -> None:
    """`first`: of the block, where this shard begins in it."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes_of(shape)]}
        end += bytes_of(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    at = first % (len(block) // 2) * 2
    with open(path, "wb", buffering=0) as file:
        write_all(file, struct.pack("<Q", len(text)) + text)
        for _, shape in tensors:
            if len(shape) == 1:
                write_all(file, ONE * shape[0])
                continue
            left = bytes_of(shape)
            while left > 0:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{path}: not written in time")
                count = min(left, len(block) - at)
                write_all(file, block[at:at + count])
                left -= count
                at = (at + count) % len(block)
        os.fsync(file.fileno())


def write_all(file, data) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view):]


def make(shape: pathlib.Path, out: pathlib.Path, layers: int = 0, time_limit_s: float = 240, seed: int = 0) -> dict:
    """What was written: bytes and seconds. Half a checkpoint is taken away again."""
    start = time.monotonic()
    config = json.loads((shape / "config.json").read_text())
    if layers > 0:
        config["num_hidden_layers"] = min(layers, config["num_hidden_layers"])
    tensors = tensors_of(config)
    size = sum(bytes_of(each) for _, each in tensors)
    out.mkdir(parents=True)  # never into a folder that holds something
    try:
        if shutil.disk_usage(out).free < size:
            raise OSError(f"{out}: {size / 1e9:.1f} GB do not fit, {shutil.disk_usage(out).free / 1e9:.1f} GB are free")
        shards = into_shards(tensors, SHARD_BYTES)
        names = ["model.safetensors"] if len(shards) == 1 else [
            f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
        block = random_block(seed)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:  # writing lets the interpreter go
            jobs = [pool.submit(write_shard, out / name, shard, block, 7_654_321 * i, start + time_limit_s)
                    for i, (name, shard) in enumerate(zip(names, shards))]
            for job in jobs:
                job.result()
        if len(shards) > 1:
            where = {name: file for file, shard in zip(names, shards) for name, _ in shard}
            (out / "model.safetensors.index.json").write_text(
                json.dumps({"metadata": {"total_size": size}, "weight_map": where}, indent=1) + "\n")
        (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return {"bytes": size, "files": len(shards), "seconds": time.monotonic() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=pathlib.Path, required=True, help="folder with a config.json of Llama's kind")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to make")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than the shape has")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit-s", type=float, default=240)
    options = parser.parse_args()
    try:
        done = make(options.shape, options.out, options.layers, options.time_limit_s, options.seed)
    except (OSError, TimeoutError) as error:
        raise SystemExit(f"{error}") from None
    print(f"{options.out}: {done['bytes'] / 1e9:.2f} GB in {done['files']} files, {done['seconds']:.1f} s, "
          f"{done['bytes'] / done['seconds'] / 1e9:.2f} GB/s")


if __name__ == "__main__":
    main()
