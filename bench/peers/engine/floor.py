#!/usr/bin/env python3
"""What a decode step has to read and a prefill has to compute, from a shape's config.json: the tables of
docs/performance/engine_gpu.md.

  bench/peers/engine/floor.py --read-tb-per-s 4.49

A step reads every weight once (all layers and the head; of the embedding table only a row for each sequence, which is
not counted) and the keys and values of the past. Over several GPUs each reads its part, and the norms' gains, whole.
"""
import argparse
import json
import pathlib

SHAPES = pathlib.Path(__file__).resolve().parents[2] / "shapes"
ELEMENT_BYTES = 2  # bf16 weights, keys and values
# Shape, GPUs, batch, tokens in and out. The mean past of a run is the prompt and half of the output.
STEPS = [("llama-8b", tp, batch, 128, 128) for tp in (1, 2, 4) for batch in (1, 4, 16, 32)]
STEPS += [("llama-70b", tp, batch, 128, 128) for tp in (2, 4) for batch in (1, 16)]
STEPS += [("llama-8b", 1, 16, 2480, 2048), ("llama-70b", 4, 16, 2480, 2048)]
PREFILLS = [("llama-8b", 1, 8, 2048), ("llama-70b", 4, 8, 2048), ("llama-70b", 4, 16, 2480)]


class Shape:
    def __init__(self, name: str):
        config = json.loads((SHAPES / name / "config.json").read_text())
        self.hidden, self.layers = config["hidden_size"], config["num_hidden_layers"]
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim, self.vocab = config["head_dim"], config["vocab_size"]
        of_attention = (2 * self.heads + 2 * self.kv_heads) * self.head_dim * self.hidden
        self.layer_weights = of_attention + 3 * config["intermediate_size"] * self.hidden

    def weights(self) -> int:
        return self.layers * self.layer_weights + self.vocab * self.hidden

    def gain_bytes(self) -> int:
        return ELEMENT_BYTES * (2 * self.layers + 1) * self.hidden

    def kv_token_bytes(self) -> int:
        return ELEMENT_BYTES * 2 * self.layers * self.kv_heads * self.head_dim

    def step_bytes_of_gpu(self, tp: int, batch: int, past: int) -> float:
        return (ELEMENT_BYTES * self.weights() + batch * past * self.kv_token_bytes()) / tp + self.gain_bytes()

    def prefill_flops(self, batch: int, length: int) -> tuple[float, float]:
        """Of the products (the head for the last position alone), and of causal attention: two products of
        length x length / 2 x head_dim for each head."""
        products = 2 * batch * (length * self.layers * self.layer_weights + self.vocab * self.hidden)
        return products, 2 * batch * self.layers * self.heads * self.head_dim * length**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--read-tb-per-s", type=float, required=True, help="measured read rate of one GPU")
    rate = parser.parse_args().read_tb_per_s * 1e12
    print("| shape | weights read, GB | KV of a token, KiB |\n| --- | --: | --: |")
    for name in ("llama-1b", "llama-8b", "llama-70b"):
        shape = Shape(name)
        print(f"| {name} | {(ELEMENT_BYTES * shape.weights() + shape.gain_bytes()) / 1e9:.3f} "
              f"| {shape.kv_token_bytes() / 1024:.0f} |")
    print("\n| shape | GPUs | batch | in / out | mean past | GB a GPU | floor, ms | floor, tok/s |")
    print("| --- | --: | --: | --: | --: | --: | --: | --: |")
    for name, tp, batch, tokens_in, tokens_out in STEPS:
        past = tokens_in + tokens_out // 2
        size = Shape(name).step_bytes_of_gpu(tp, batch, past)
        print(f"| {name} | {tp} | {batch} | {tokens_in} / {tokens_out} | {past} | {size / 1e9:.3f} "
              f"| {size / rate * 1e3:.3f} | {batch * rate / size:,.0f} |")
    print("\n| shape | GPUs | prompts | products, TFLOP | attention, TFLOP |\n| --- | --: | --: | --: | --: |")
    for name, tp, batch, length in PREFILLS:
        products, attention = Shape(name).prefill_flops(batch, length)
        print(f"| {name} | {tp} | {batch} x {length} | {products / 1e12:.1f} | {attention / 1e12:.1f} |")


if __name__ == "__main__":
    main()
