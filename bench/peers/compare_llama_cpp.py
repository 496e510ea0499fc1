#!/usr/bin/env python3
"""Lane and llama.cpp on the same machine, the same model shape and random bf16 weights, in turns.

Writes a GGUF file of the shape that --config describes (random weights: speed does not depend on their values, but on
their not being zeros), then alternates `lane bench latency` and llama-batched-bench for every batch size, --rounds
times, and prints the medians and the ratio. Needs PyPI's `gguf` and `numpy`, and a llama-batched-bench built for this
machine (-DGGML_NATIVE=ON); PyPI's llama-cpp-python source archive carries llama.cpp.

  bench/peers/compare_llama_cpp.py --lane build/release/cli/lane --llama-bin .../bin/llama-batched-bench \
      --config bench/shapes/llama-309m --threads 2 --json result.json
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile


def write_gguf(config: dict, path: pathlib.Path) -> None:
    """A llama.cpp model file of this shape with normal random bf16 weights (standard deviation 0.02)."""
    import gguf
    import numpy as np

    hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", hidden // heads)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    random = np.random.default_rng(0)

    def matrix(name: str, rows: int, cols: int) -> None:
        values = random.standard_normal((rows, cols), dtype=np.float32) * np.float32(0.02)
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        writer.add_tensor(name, bits.view(np.uint8).reshape(rows, cols * 2), raw_dtype=gguf.GGMLQuantizationType.BF16)

    def gain(name: str) -> None:
        writer.add_tensor(name, np.ones(hidden, dtype=np.float32))

    matrix("token_embd.weight", vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"blk.{layer}."
        gain(prefix + "attn_norm.weight")
        matrix(prefix + "attn_q.weight", heads * head_dim, hidden)
        matrix(prefix + "attn_k.weight", kv_heads * head_dim, hidden)
        matrix(prefix + "attn_v.weight", kv_heads * head_dim, hidden)
        matrix(prefix + "attn_output.weight", hidden, heads * head_dim)
        gain(prefix + "ffn_norm.weight")
        matrix(prefix + "ffn_gate.weight", ffn, hidden)
        matrix(prefix + "ffn_up.weight", ffn, hidden)
        matrix(prefix + "ffn_down.weight", hidden, ffn)
    gain("output_norm.weight")
    if not config.get("tie_word_embeddings"):
        matrix("output.weight", vocab, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run_lane(options, batch: int) -> dict:
    """Prefill and decode tokens/s of Lane, and its share of the memory floor."""
    command = [options.lane, "bench", "latency", "--model", str(options.config), "--load-format", "dummy",
               "--dtype", "bfloat16", "--batch-size", str(batch), "--input-len", str(options.input_len),
               "--output-len", str(options.output_len), "--num-iters-warmup", "1", "--num-iters", "3",
               "--max-model-len", str(options.input_len + options.output_len), "--threads", str(options.threads),
               "--tp", str(options.tp), "--max-num-batched-tokens", "512", "--json"]
    out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800).stdout)
    return {"prefill": out["prefill_tokens_per_s"], "decode": out["decode_tokens_per_s"], "mbu": out["mbu"],
            "read_gbps": out["read_bandwidth_bytes_per_s"] / 1e9}


def run_llama(options, gguf_path: pathlib.Path, batch: int) -> dict:
    """Prefill and decode tokens/s of llama.cpp, flash attention on, all threads."""
    context = batch * (options.input_len + options.output_len) + 256
    threads = options.threads * options.tp
    command = [options.llama_bin, "-m", str(gguf_path), "-c", str(context), "-b", "2048", "-ub", "512", "-fa", "on",
               "-npp", str(options.input_len), "-ntg", str(options.output_len), "-npl", str(batch),
               "-t", str(threads), "-tb", str(threads), "--output-format", "jsonl"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800).stdout
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return {"prefill": rows[-1]["speed_pp"], "decode": rows[-1]["speed_tg"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lane", required=True)
    parser.add_argument("--llama-bin", required=True)
    parser.add_argument("--config", type=pathlib.Path, required=True, help="folder with a config.json")
    parser.add_argument("--batches", default="1,4,8")
    parser.add_argument("--input-len", type=int, default=64)
    parser.add_argument("--output-len", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="threads of each rank of Lane; llama.cpp gets threads x tp")
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    config = json.loads((options.config / "config.json").read_text())
    results = []
    with tempfile.TemporaryDirectory() as folder:
        gguf_path = pathlib.Path(folder) / "model.gguf"
        write_gguf(config, gguf_path)
        for batch in [int(part) for part in options.batches.split(",")]:
            lane, llama = [], []
            for _ in range(options.rounds):  # in turns: both see the same drift of the machine
                lane.append(run_lane(options, batch))
                llama.append(run_llama(options, gguf_path, batch))
            median = lambda runs, key: statistics.median(run[key] for run in runs)  # noqa: E731
            results.append({"batch": batch, "lane": {key: median(lane, key) for key in lane[0]},
                            "llama_cpp": {key: median(llama, key) for key in llama[0]}, "rounds": options.rounds,
                            "lane_runs": lane, "llama_cpp_runs": llama})
    print(f"{options.config.name}, bf16, {options.input_len} tokens in, {options.output_len} out, "
          f"tp {options.tp} x {options.threads} threads; medians of {options.rounds} rounds, tokens/s")
    print(f"{'batch':>5} {'prefill lane':>13} {'llama.cpp':>10} {'ratio':>6} {'decode lane':>12} {'llama.cpp':>10} "
          f"{'ratio':>6} {'MBU':>6}")
    for row in results:
        lane, llama = row["lane"], row["llama_cpp"]
        print(f"{row['batch']:>5} {lane['prefill']:>13.1f} {llama['prefill']:>10.1f} "
              f"{lane['prefill'] / llama['prefill']:>5.2f}x {lane['decode']:>12.1f} {llama['decode']:>10.1f} "
              f"{lane['decode'] / llama['decode']:>5.2f}x {100 * lane['mbu']:>5.1f}%")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
