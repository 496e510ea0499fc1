#!/usr/bin/env python3
"""A plain PyTorch decoder, written to be fast: what Lane's engine is compared with, beside transformers.

Merged QKV and gate/up matrices, Megatron's split over the GPUs (two NCCL all-reduces a layer, vocabulary split too),
static KV cache, FlashAttention, greedy choice on the GPU. Each half of a layer is one torch.compile'd function, from a
residual addition to a partial sum; a whole decode step is one CUDA graph with NCCL's kernels inside, replayed without
asking for a token. Random bf16 weights of the shape in config.json (model_type llama).

  bench/peers/engine/torch_graph_loop.py --shape bench/shapes/llama-8b --tp 1 --batches 1,16 --json out.json

Times: a decode step is the distance of two CUDA events behind replays, the median over the run's steps; prefill and end
to end are wall time between two points at which the GPU is idle, the median over the runs. Prompts are computed in passes
of whole prompts, as many as --prefill-tokens holds.

With --seconds-left a run that would not end in time is cut: the prefill is whole, and the decode steps that there is time
for are those about the mean context of a whole run. End to end is then worked out from them, and the results say so
(end_to_end_is_extrapolated).
"""
import argparse
import math
import statistics
import time

import ranks
import torch
import torch.distributed as dist
import torch.nn.functional as F


def rotary_table(config: dict, length: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [length, head_dim / 2]; with Llama 3's stretching of slow frequencies where config.json asks."""
    head_dim = config["head_dim"]
    freq = config["rope_theta"] ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "llama3":
        turns = scaling["original_max_position_embeddings"] * freq / (2 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        freq = freq * (keep + (1 - keep) / scaling["factor"])
    angles = torch.arange(length, dtype=torch.float64)[:, None] * freq
    return angles.cos().float().to(device), angles.sin().float().to(device)


def add_and_norm(residual, partial, gain, eps: float):
    residual = residual + partial
    x = residual.float()
    return residual, (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)).to(residual.dtype) * gain


def rotate(x, cos, sin):
    """[tokens, heads, head_dim] by the angles [tokens, head_dim / 2]; halves as Llama's checkpoints have them."""
    a, b = x.float().chunk(2, -1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def math_attention(query, keys, values, lengths):
    """One query a sequence, [batch, heads, head_dim], over the whole static cache [batch, length, kv heads, head_dim];
    what lies beyond a sequence's length counts nothing."""
    batch, heads, head_dim = query.shape
    kv_heads = keys.shape[2]
    grouped = query.view(batch, kv_heads, heads // kv_heads, head_dim)
    scores = torch.einsum("bhgd,blhd->bhgl", grouped, keys).float() / math.sqrt(head_dim)
    is_past = torch.arange(keys.shape[1], device=keys.device) < lengths[:, None]
    weights = scores.masked_fill(~is_past[:, None, None], -math.inf).softmax(-1).to(query.dtype)
    return torch.einsum("bhgl,blhd->bhgd", weights, values).reshape(batch, heads, head_dim)


def flash_attention(query, keys, values, lengths, query_start, key_start):
    """The same by FlashAttention, which reads the lengths on the device, reads no more than them, and splits them."""
    batch, length, kv_heads, head_dim = keys.shape
    flat = (batch * length, kv_heads, head_dim)
    forward = torch.ops.aten._flash_attention_forward.default
    return forward(query, keys.view(flat), values.view(flat), query_start, key_start, 1, length, 0.0, False, False,
                   seqused_k=lengths)[0]


def flash_works(device) -> str:
    """Empty if FlashAttention with lengths on the device runs here and agrees with the definition, else why not."""
    try:
        query = torch.randn(3, 8, 128, device=device, dtype=torch.bfloat16)
        keys, values = (torch.randn(3, 640, 2, 128, device=device, dtype=torch.bfloat16) for _ in range(2))
        lengths = torch.tensor([1, 200, 640], device=device, dtype=torch.int32)
        starts = torch.arange(4, device=device, dtype=torch.int32)
        got = flash_attention(query, keys, values, lengths, starts, starts * 640)
        off = (got.float() - math_attention(query, keys, values, lengths).float()).abs().max().item()
        return "" if off < 2**-5 else f"its results are off by {off:.3g}"  # values of order 1, rounded by 2^-9 each
    except (RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0]


class Decoder:
    """One rank's slices, and the two passes over them."""

    def __init__(self, config: dict, rank: int, size: int, device, dtype):
        self.config, self.rank, self.size, self.device, self.dtype = config, rank, size, device, dtype
        self.head_dim, self.eps = config["head_dim"], config["rms_norm_eps"]
        self.heads, self.kv_heads = (config[key] // size for key in ("num_attention_heads", "num_key_value_heads"))
        hidden, ffn, vocab = config["hidden_size"], config["intermediate_size"] // size, config["vocab_size"] // size
        if self.kv_heads == 0 or vocab * size != config["vocab_size"]:
            raise ValueError(f"{size} GPUs do not divide the heads and the vocabulary of this shape")
        random = torch.Generator(device).manual_seed(rank)

        def matrix(rows: int, cols: int) -> torch.Tensor:
            return torch.empty(rows, cols, device=device, dtype=dtype).normal_(0, 0.02, generator=random)

        gain = torch.ones(hidden, device=device, dtype=dtype)
        self.layers = [{"attention_norm": gain, "mlp_norm": gain,
                        "qkv": matrix((self.heads + 2 * self.kv_heads) * self.head_dim, hidden),
                        "out": matrix(hidden, self.heads * self.head_dim),
                        "gate_up": matrix(2 * ffn, hidden), "down": matrix(hidden, ffn)}
                       for _ in range(config["num_hidden_layers"])]
        self.final_norm, self.embedding = gain, matrix(config["vocab_size"], hidden)
        if size > 1:
            dist.broadcast(self.embedding, 0)  # whole on each rank
        tied = config.get("tie_word_embeddings", False)
        self.head = self.embedding.narrow(0, rank * vocab, vocab) if tied else matrix(vocab, hidden)
        self.why_not_flash = flash_works(device) if device.type == "cuda" else "no GPU"

        compiled = torch.compile if device.type == "cuda" else lambda function, **_: function
        self.attention_decode = compiled(self._attention_decode, dynamic=False)
        self.attention_prefill = compiled(self._attention_prefill, dynamic=False)
        self.mlp = compiled(self._mlp, dynamic=False)
        self.best = compiled(self._best, dynamic=False)

    def open(self, batch: int, length: int) -> None:
        """Cache for `length` tokens of each sequence, and what a step works on."""
        shape = (len(self.layers), batch, length, self.kv_heads, self.head_dim)
        self.keys, self.values = (torch.zeros(shape, device=self.device, dtype=self.dtype) for _ in range(2))
        self.rows = torch.arange(batch, device=self.device)
        self.tokens = torch.zeros(batch, device=self.device, dtype=torch.long)
        self.positions = torch.zeros(batch, device=self.device, dtype=torch.long)
        self.cos, self.sin = rotary_table(self.config, length, self.device)
        self.query_start = torch.arange(batch + 1, device=self.device, dtype=torch.int32)
        self.key_start = self.query_start * length
        self.nothing = torch.zeros(batch, self.config["hidden_size"], device=self.device, dtype=self.dtype)

    def close(self) -> None:
        self.keys = self.values = None

    # The compiled parts. They take all that changes from layer to layer, so one compilation serves all layers.

    def _queries_keys_values(self, normed, qkv, cos, sin):
        heads, kv_heads = self.heads, self.kv_heads
        q, k, v = F.linear(normed, qkv).view(-1, heads + 2 * kv_heads, self.head_dim).split(
            (heads, kv_heads, kv_heads), 1)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def _attention_decode(self, residual, partial, gain, qkv, out, keys, values, positions, rows, cos, sin, query_start,
                          key_start):
        residual, normed = add_and_norm(residual, partial, gain, self.eps)
        q, k, v = self._queries_keys_values(normed, qkv, cos, sin)
        keys[rows, positions] = k
        values[rows, positions] = v
        lengths = (positions + 1).int()
        if self.why_not_flash:
            attended = math_attention(q, keys, values, lengths)
        else:
            attended = flash_attention(q, keys, values, lengths, query_start, key_start)
        return residual, F.linear(attended.reshape(q.shape[0], -1), out)

    def _attention_prefill(self, residual, partial, gain, qkv, out, keys, values, cos, sin):
        batch = keys.shape[0]  # of this pass
        length = residual.shape[0] // batch
        residual, normed = add_and_norm(residual, partial, gain, self.eps)
        q, k, v = self._queries_keys_values(normed, qkv, cos, sin)
        q, k, v = (x.view(batch, length, -1, self.head_dim) for x in (q, k, v))
        keys[:, :length] = k
        values[:, :length] = v
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return residual, F.linear(attended.transpose(1, 2).reshape(batch * length, -1), out)

    def _mlp(self, residual, partial, gain, gate_up, down):
        residual, normed = add_and_norm(residual, partial, gain, self.eps)
        gate, up = F.linear(normed, gate_up).chunk(2, -1)
        return residual, F.linear(F.silu(gate) * up, down)

    def _best(self, residual, partial, gain, head):
        """The largest logit of each row in this rank's part of the vocabulary, and its place there."""
        return F.linear(add_and_norm(residual, partial, gain, self.eps)[1], head).float().max(-1)

    def _sum(self, partial):
        if self.size > 1:
            dist.all_reduce(partial)
        return partial

    def choose(self, residual, partial) -> torch.Tensor:
        """The token of the largest logit of each row; each rank has its part of the vocabulary."""
        best, index = self.best(residual, partial, self.final_norm, self.head)
        if self.size == 1:
            return index
        mine = torch.stack((best, (index + self.rank * self.head.shape[0]).float()), -1)  # exact up to 2^24 tokens
        offers = torch.empty(self.size, *mine.shape, device=self.device)
        dist.all_gather_into_tensor(offers.view(-1, 2), mine)
        winner = offers[..., 0].argmax(0)
        return offers[..., 1].gather(0, winner[None])[0].long()

    def step(self) -> None:
        """One token for each sequence; what it needs lies on the device and is brought on for the next step."""
        cos, sin = self.cos[self.positions], self.sin[self.positions]
        residual, partial = F.embedding(self.tokens, self.embedding), self.nothing
        for w, keys, values in zip(self.layers, self.keys, self.values):
            residual, partial = self.attention_decode(residual, partial, w["attention_norm"], w["qkv"], w["out"], keys,
                                                      values, self.positions, self.rows, cos, sin, self.query_start,
                                                      self.key_start)
            residual, partial = self.mlp(residual, self._sum(partial), w["mlp_norm"], w["gate_up"], w["down"])
            partial = self._sum(partial)
        self.tokens.copy_(self.choose(residual, partial))
        self.positions.add_(1)

    def prefill(self, prompts: torch.Tensor, tokens_a_pass: int) -> None:
        """All prompts, [batch, length], in passes of whole prompts; leaves the first token of each."""
        at_once = max(1, tokens_a_pass // prompts.shape[1])
        for first in range(0, prompts.shape[0], at_once):
            self._prefill_pass(prompts[first:first + at_once], first)
        self.positions.fill_(prompts.shape[1])

    def _prefill_pass(self, prompts: torch.Tensor, first: int) -> None:
        batch, length = prompts.shape
        mine = slice(first, first + batch)
        residual = F.embedding(prompts.reshape(-1), self.embedding)
        partial = torch.zeros_like(residual)
        cos, sin = (table[:length].repeat(batch, 1) for table in (self.cos, self.sin))
        for w, keys, values in zip(self.layers, self.keys, self.values):
            residual, partial = self.attention_prefill(residual, partial, w["attention_norm"], w["qkv"], w["out"],
                                                       keys[mine], values[mine], cos, sin)
            residual, partial = self.mlp(residual, self._sum(partial), w["mlp_norm"], w["gate_up"], w["down"])
            partial = self._sum(partial)
        last = slice(length - 1, None, length)
        self.tokens[mine] = self.choose(residual[last].contiguous(), partial[last].contiguous())


def capture(decoder: Decoder):
    """The step as one graph. Whatever is compiled, allocated or opened at a first call is before the recording."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            decoder.step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # NCCL's watchdog is another thread
        decoder.step()
    return graph


def run_once(decoder: Decoder, graph, prompts, steps: int, past: int, options) -> tuple[float, float, list[float]]:
    """Seconds of the prefill, of the whole run, and of each decode step; the first one has `past` tokens before it."""
    start = ranks.now(decoder.device)
    decoder.prefill(prompts, options.prefill_tokens)
    prefilled = ranks.now(decoder.device)
    if past > prompts.shape[1]:
        decoder.positions.fill_(past)  # whatever the cache holds there: it takes as long to read
    if graph is None:
        gaps = []
        for _ in range(steps):
            before = time.perf_counter()
            decoder.step()
            gaps.append(time.perf_counter() - before)
        return prefilled - start, ranks.now(decoder.device) - start, gaps
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    marks[0].record()
    for mark in marks[1:]:
        graph.replay()
        mark.record()
    end = ranks.now(decoder.device)
    return prefilled - start, end - start, [a.elapsed_time(b) * 1e-3 for a, b in zip(marks, marks[1:])]


def measure(decoder: Decoder, batch: int, options, result: dict) -> None:
    start = ranks.now(decoder.device)
    decoder.open(batch, options.input_len + options.output_len)
    random = torch.Generator(decoder.device).manual_seed(batch)
    prompts = torch.randint(decoder.config["vocab_size"], (batch, options.input_len), device=decoder.device,
                            generator=random)
    decoder.prefill(prompts, options.prefill_tokens)
    graph = capture(decoder) if decoder.device.type == "cuda" else None
    result["setup_s"] = ranks.now(decoder.device) - start
    trial = run_once(decoder, graph, prompts, min(options.output_len, 16) - 1, options.input_len, options)
    plan = ranks.runs_that_fit(options, decoder.device, trial[0], statistics.median(trial[2]))
    runs = [run_once(decoder, graph, prompts, plan.steps, plan.past, options) for _ in range(max(1, plan.count))]
    result |= ranks.summary([gap for run in runs for gap in run[2]])
    if plan.is_cut:
        result |= ranks.of_cut_run(options, plan, runs[0][0], runs[0][2])
        return
    result |= {"prefill_s": statistics.median(run[0] for run in runs),
               "end_to_end_s": statistics.median(run[1] for run in runs), "end_to_end_runs_s": [run[1] for run in runs]}


@torch.no_grad()
def work(rank: int, device, options) -> None:
    torch._inductor.config.coordinate_descent_tuning = True  # and products with one row become reductions
    torch._dynamo.config.recompile_limit = 64  # one for each batch
    if options.max_autotune:
        torch._inductor.config.max_autotune = True
    start = time.perf_counter()
    config = ranks.load_config(options)
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    decoder = Decoder(config, rank, options.tp, device, torch.float32 if device.type == "cpu" else torch.bfloat16)
    results = ranks.Results(rank, options, {
        "engine": "torch, one CUDA graph a step",
        "load_s": ranks.now(device) - start,
        "compiled": "both halves of a layer and the head, torch.compile(dynamic=False), coordinate descent tuning"
                    + (", max autotune" if options.max_autotune else ""),
        "decode_attention": f"plain: {decoder.why_not_flash}" if decoder.why_not_flash else "FlashAttention",
    })
    for batch in ranks.batches_of(options):
        with results.row(batch) as result:
            try:
                measure(decoder, batch, options, result)
            finally:
                decoder.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ranks.add_arguments(parser)
    parser.add_argument("--prefill-tokens", type=int, default=65536, help="of prompts that are computed in one pass")
    parser.add_argument("--max-autotune", action="store_true", help="let Triton's products compete; minutes more")
    ranks.run_ranks(work, parser.parse_args())


if __name__ == "__main__":
    main()
