"""Trains the demo model from scratch and writes it as a Hugging Face Llama folder (bfloat16 safetensors).

The training chats are made on the fly by worker processes; batch i depends on --seed and i alone, so a run is fixed by
its arguments up to the arithmetic of the machine.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import time

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import data
import tokenizer

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "max_position_embeddings": 1024,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0",
    "use_cache": True,
    "vocab_size": tokenizer.VOCAB_SIZE,
}
ROW = 512

_worker = {}


def start_worker(folder, seed, rows):
    _worker.update(tok=tokenizer.load(folder), seed=seed, rows=rows)


def make_batch(index):
    """Packs whole chats into rows of ROW tokens.

    Returns (tokens, meta) with meta = 2 * chat number, plus 1 where the token is trained; 0 is padding.
    """
    rng = random.Random("%d/%d" % (_worker["seed"], index))
    tok, rows = _worker["tok"], _worker["rows"]
    tokens = np.zeros((rows, ROW), np.uint16)
    meta = np.zeros((rows, ROW), np.uint8)
    used, chats = [0] * rows, [0] * rows
    first, misses = 0, 0
    while misses < 24:
        pieces = []
        for _ in range(64):
            pieces.append(data.segments(data.conversation(rng)[0]))
        flat = tok.encode_batch_fast([text for p in pieces for text, _ in p], add_special_tokens=False)
        at = 0
        for p in pieces:
            ids, trained = [], []
            for _, learn in p:
                piece = flat[at].ids
                at += 1
                ids += piece
                trained += [learn] * len(piece)
            n = len(ids)
            if n > ROW:
                continue
            # First fit over a window of open rows.
            for r in range(first, min(first + 12, rows)):
                if used[r] + n <= ROW:
                    break
            else:
                misses += 1
                if first < rows - 1:
                    first += 1
                    r = min(first + 11, rows - 1)
                    if used[r] + n > ROW:
                        continue
                else:
                    continue
            chats[r] += 1
            tokens[r, used[r] : used[r] + n] = ids
            meta[r, used[r] : used[r] + n] = np.asarray(trained, np.uint8) + 2 * chats[r]
            used[r] += n
            misses = 0
    return tokens, meta


class Model(torch.nn.Module):
    """Llama with the weights of all layers stacked, so that the optimizer works on a few large tensors."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        h, f, d, n = c["hidden_size"], c["intermediate_size"], c["head_dim"], c["num_hidden_layers"]
        q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
        init = lambda *shape, std=0.02: torch.nn.Parameter(torch.randn(*shape) * std)
        self.embed = init(c["vocab_size"], h)
        self.q, self.k, self.v = init(n, q, h, std=h**-0.5), init(n, kv, h, std=h**-0.5), init(n, kv, h, std=h**-0.5)
        self.o = init(n, h, q, std=0.02 / math.sqrt(2 * n))
        self.gate, self.up = init(n, f, h, std=h**-0.5), init(n, f, h, std=h**-0.5)
        self.down = init(n, h, f, std=0.02 / math.sqrt(2 * n))
        self.norms = torch.nn.Parameter(torch.ones(n, 2, h))
        self.norm = torch.nn.Parameter(torch.ones(h))
        inv = c["rope_theta"] ** (-torch.arange(0, d, 2, dtype=torch.float32) / d)
        angle = torch.outer(torch.arange(ROW, dtype=torch.float32), inv)
        angle = torch.cat([angle, angle], -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def matrices(self):
        return [self.q, self.k, self.v, self.o, self.gate, self.up, self.down]

    def rms(self, x, gain):
        x32 = x.float()
        return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.c["rms_norm_eps"])) * gain

    def rotate(self, x):
        a, b = x.float().chunk(2, -1)
        return (x * self.cos + torch.cat([-b, a], -1) * self.sin).to(x.dtype)

    def forward(self, tokens, meta):
        """Mean loss over the trained tokens of a packed batch."""
        c = self.c
        b, t = tokens.shape
        d, heads, kv = c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"]
        chat = meta >> 1
        causal = torch.ones(t, t, dtype=torch.bool, device=tokens.device).tril()
        same = (chat[:, :, None] == chat[:, None, :]) & causal
        bias = torch.where(same, 0.0, float("-inf")).to(torch.bfloat16 if tokens.is_cuda else torch.float32)[:, None]
        x = F.embedding(tokens, self.embed)
        layers = zip(self.norms.unbind(0), *[m.unbind(0) for m in self.matrices()])
        for norms, wq, wk, wv, wo, wg, wu, wd in layers:
            y = self.rms(x, norms[0])
            q = self.rotate(F.linear(y, wq).view(b, t, heads, d).transpose(1, 2))
            k = self.rotate(F.linear(y, wk).view(b, t, kv, d).transpose(1, 2))
            v = F.linear(y, wv).view(b, t, kv, d).transpose(1, 2)
            k, v = k.repeat_interleave(heads // kv, 1), v.repeat_interleave(heads // kv, 1)
            a = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(b, heads, t, t))
            x = x + F.linear(a.transpose(1, 2).reshape(b, t, heads * d), wo)
            y = self.rms(x, norms[1])
            x = x + F.linear(F.silu(F.linear(y, wg)) * F.linear(y, wu), wd)
        x = self.rms(x, self.norm)
        logits = F.linear(x[:, :-1], self.embed).float()
        learn = (chat[:, 1:] == chat[:, :-1]) & ((meta[:, 1:] & 1) == 1)
        target = torch.where(learn, tokens[:, 1:], -100)
        return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), ignore_index=-100)

    def tensors(self):
        """The weights under their Hugging Face names, in bfloat16; the output layer is the embedding."""
        out = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.norm}
        names = [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ]
        for i in range(self.c["num_hidden_layers"]):
            p = "model.layers.%d." % i
            out[p + "input_layernorm.weight"] = self.norms[i, 0]
            out[p + "post_attention_layernorm.weight"] = self.norms[i, 1]
            for name, m in zip(names, self.matrices()):
                out[p + name + ".weight"] = m[i]
        return {k: v.detach().to("cpu", torch.bfloat16).contiguous().clone() for k, v in out.items()}


class Muon:
    """Momentum with orthogonalized updates (Newton-Schulz) for stacks of matrices."""

    def __init__(self, params, momentum=0.95, decay=0.1):
        self.params, self.momentum, self.decay = params, momentum, decay
        self.buffers = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self, lr):
        for p, m in zip(self.params, self.buffers):
            m.lerp_(p.grad, 1 - self.momentum)
            g = p.grad.lerp(m, self.momentum)
            x = g.to(torch.bfloat16 if g.is_cuda else torch.float32)
            turn = x.shape[-2] > x.shape[-1]
            x = x.mT if turn else x
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            for _ in range(5):
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
            x = x.mT if turn else x
            p.mul_(1 - lr * self.decay)
            p.add_(x.to(p.dtype), alpha=-lr * 0.2 * math.sqrt(max(p.shape[-2:])))


def save_model(model, tok, folder):
    os.makedirs(folder, exist_ok=True)
    save_file(model.tensors(), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    bos, end, eot = (tok.token_to_id(t) for t in (data.BOS, data.EOS, data.EOT))

    def write(name, value):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(value, f, indent=2)
            f.write("\n")

    write("config.json", dict(model.c, bos_token_id=bos, eos_token_id=[end, eot]))
    write(
        "generation_config.json",
        {
            "bos_token_id": bos,
            "do_sample": False,
            "eos_token_id": [end, eot],
            "temperature": 0.7,
            "top_p": 0.95,
        },
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True, help="folder with the trained tokenizer.json")
    parser.add_argument("--out", required=True, help="model folder to write")
    parser.add_argument("--steps", type=int, default=0, help="0 chooses the count that fits into --minutes")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="hard limit; the weights are saved when it is reached"
    )
    parser.add_argument("--rows", type=int, default=128, help="rows of %d tokens in a batch" % ROW)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()

    begin = time.time()
    pool = multiprocessing.get_context("fork").Pool(args.workers, start_worker, (args.tokenizer, args.seed, args.rows))
    steps = args.steps
    batches = pool.imap(make_batch, range(steps or 10**6), chunksize=2)
    tok = tokenizer.load(args.tokenizer)
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    model = Model(CONFIG).to(args.device)
    print("parameters: %d" % sum(p.numel() for p in model.parameters()))
    muon = Muon(model.matrices())
    rest = [model.embed, model.norms, model.norm]
    adam = torch.optim.AdamW(rest, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=args.device == "cuda")
    run = model if args.no_compile else torch.compile(model, dynamic=False)
    cuda = args.device == "cuda"
    losses, seen, since, step = [], 0, time.time(), 0
    while True:
        if steps:
            progress = step / steps
            lr = args.lr * min(1.0, (step + 1) / 300) * min(1.0, max(0.0, 1 - progress) / 0.45)
        else:
            lr = args.lr * min(1.0, (step + 1) / 300)
        tokens, meta = next(batches)
        tokens = torch.from_numpy(tokens.astype(np.int32)).to(args.device, non_blocking=True).long()
        meta = torch.from_numpy(meta).to(args.device, non_blocking=True).int()
        with torch.autocast(args.device, torch.bfloat16, enabled=cuda):
            loss = run(tokens, meta)
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = lr
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        adam.step()
        muon.step(lr)
        model.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        step += 1
        seen += tokens.numel()
        if step == 20:
            if cuda:
                torch.cuda.synchronize()
            measured = time.time()
        if step == 320 and not steps:
            torch.cuda.synchronize()
            per_step = (time.time() - measured) / 300
            left = args.minutes * 60 - (time.time() - begin) - 4
            steps = step + int(left / (per_step * 1.03))
            print("%.2f ms per step, %d steps chosen" % (per_step * 1e3, steps))
        if step % (500 if cuda else 5) == 0:
            mean = torch.stack(losses).mean().item()
            losses = []
            print(
                "step %d  loss %.4f  lr %.5f  %.2f M tokens/s  %.0f s"
                % (step, mean, lr, seen / (time.time() - since) / 1e6, time.time() - begin),
                flush=True,
            )
            seen, since = 0, time.time()
            if not math.isfinite(mean):
                raise SystemExit("the loss is not finite")
        if steps and step >= steps:
            break
        if time.time() - begin > args.minutes * 60:
            print("the time limit was reached at step %d of %d" % (step, steps))
            break
    save_model(model, tok, args.out)
    print("steps %d, tokens %d, seconds %.0f" % (step, step * args.rows * ROW, time.time() - begin))
    pool.terminate()


if __name__ == "__main__":
    main()
