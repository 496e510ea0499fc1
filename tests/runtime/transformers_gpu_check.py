#!/usr/bin/env python3
"""Lane on a GPU against Hugging Face transformers on the same GPU, on random checkpoints of real widths.

Of each model (Llama 3.2 1B's shape, and one each like Qwen2 with biases and Qwen3 with norms of queries and keys) a
checkpoint is written. `lane generate` continues prompts of mixed lengths greedily; transformers, in float32 without
TF32, is given what Lane wrote and says what each token's log-probabilities are. Checked, for each type and number of
ranks:

  tokens       each is transformers' own choice given all before it, with 1, 3, 8 and 16 sequences at once, with graphs
               and without, with logprobs (by the kernels of all rules) and without
  logprobs     of the 20 most likely tokens at each step
  composition  a sequence's logprobs in a batch of 16 against those it has alone
  prefixes     prompts with a common beginning: computed each by itself, and taken over from the cache

Bounds, as in fixtures_test.cc. float32: logits are off by at most 1e-4 of the largest; a log-probability is a logit
less log sum exp of all, which moves by no more than the logits do, so it is off by at most 2e-4 of the largest logit. A
token that is not the choice but whose logit is within that of the best is a tie; ties are counted. bfloat16: n = 20
layers + 4 roundings of u = 2^-9 each, so logits are off by n u in norm; for a log-probability twice that, root mean
square over all that are compared against the root mean square of the logits. transformers' own bfloat16 is measured
beside it, and tokens that differ from float32's choice are counted.

  tests/runtime/transformers_gpu_check.py --lane build/cuda/cli/lane
Exit status 1 if anything is out of bounds or differs.
"""
import argparse
import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

TOP = 20
FLOAT_BOUND = 1e-4
ROUNDING = 2.0**-9
LLAMA = json.loads((pathlib.Path(__file__).parents[2] / "bench/shapes/llama-1b/config.json").read_text())
QWEN = {"vocab_size": 151936, "hidden_act": "silu", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "bos_token_id": 151643,
        "eos_token_id": 151645, "use_sliding_window": False, "sliding_window": None, "attention_dropout": 0.0}
MODELS = {
    "llama": LLAMA,
    "qwen2": QWEN | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536,
                     "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2},
    "qwen3": QWEN | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 2048,
                     "intermediate_size": 6144, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
                     "attention_bias": False},
}
TINY = {"hidden_size": 64, "intermediate_size": 112, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "vocab_size": 304, "bos_token_id": 1, "eos_token_id": 2}


def write_checkpoint(config: dict, folder: pathlib.Path, device) -> None:
    """Random weights, so large that attention is sharp and what comes next depends on the whole prompt."""
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder),
                                                              dtype=torch.bfloat16)
    random = torch.Generator(device).manual_seed(7)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5, generator=random)
        elif name.endswith("bias"):
            parameter.data.normal_(0, 0.3, generator=random)
        else:
            is_sharp = any(part in name for part in ("q_proj", "k_proj"))
            gain = 2.0 if "embed_tokens" in name else 1.4 if is_sharp else 1.0
            parameter.data.normal_(0, gain / parameter.shape[1] ** 0.5, generator=random)
    weights = {name: value.contiguous().cpu() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@dataclasses.dataclass
class Run:
    """One call of lane generate: what it was given, and each sequence's tokens and, if asked for, logprobs by token."""
    name: str
    prompts: list[list[int]]
    tokens: list[list[int]]
    logprobs: list[list[dict[int, float]]]
    cached: int


def run_lane(options, folder, dtype: str, tp: int, name: str, prompts, steps: list[int], logprobs=False, at_once=16,
             budget=256, flags=()) -> Run:
    lines = [json.dumps({"prompt_token_ids": prompt, "max_tokens": most} | ({"logprobs": TOP} if logprobs else {}))
             for prompt, most in zip(prompts, steps)]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        command = [options.lane, "generate", "--device", options.device, "--model", str(folder), "--dtype", dtype,
                   "--tp", str(tp), "--prompts", file.name, "--temperature", "0", "--ignore-eos", "--max-model-len",
                   "1024", "--max-num-seqs", str(at_once), "--max-num-batched-tokens", str(budget), "--kv-cache-memory-bytes",
                   "64M" if options.tiny else "2G", "--no-progress", "--json", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    out = json.loads(done.stdout)
    rows = out["results"]
    if [len(row["token_ids"]) for row in rows] != list(steps):
        raise RuntimeError(f"{name}: there are {[len(row['token_ids']) for row in rows]} tokens, not {steps}")
    found = [[{entry["token_id"]: entry["logprob"] for entry in [step] + step["top"]} for step in row["logprobs"]]
             for row in rows] if logprobs else []
    return Run(name, prompts, [row["token_ids"] for row in rows], found, out["metrics"]["cached_prompt_tokens"])


class Reference:
    """transformers' logits for what comes after a prompt, given the tokens that Lane wrote."""

    def __init__(self, folder, dtype, device):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype,
                                                                       attn_implementation="eager").to(device).eval()
        self.device, self.kept = device, {}

    def logits(self, prompt: list[int], tokens: list[int]) -> torch.Tensor:
        """[tokens, vocabulary] float32; the last ones are kept, as runs mostly agree."""
        key = (tuple(prompt), tuple(tokens))
        if key not in self.kept:
            if len(self.kept) >= 48:
                self.kept.pop(next(iter(self.kept)))
            ids = torch.tensor([prompt + tokens[:-1]], device=self.device)
            self.kept[key] = self.model(ids, use_cache=False, logits_to_keep=len(tokens)).logits[0].float()
        return self.kept[key]


@dataclasses.dataclass
class Verdict:
    """One model, type and number of ranks: a row of the table."""
    about: str
    num_tokens: int = 0
    num_ties: int = 0
    num_others: int = 0      # tokens that are neither the choice nor a tie
    logprob: float = 0       # the largest (float32) or root mean square (bfloat16) difference to transformers
    bound: float = 0         # of that
    share: float = 0         # the largest of difference / bound over runs
    composition: float = 0   # the largest difference between a sequence alone and in a batch
    composition_share: float = 0
    cached: int = 0          # tokens taken over from other prompts' pages
    yardstick: float = math.nan
    problems: list[str] = dataclasses.field(default_factory=list)

    def row(self) -> str:
        yardstick = "" if math.isnan(self.yardstick) else f"{self.yardstick:.2e}"
        return (f"{self.about:<22}{self.num_tokens:>8}{self.num_ties:>6}{self.num_others:>8}{self.logprob:>11.2e}"
                f"{self.bound:>10.2e}{self.share:>7.3f}{yardstick:>11}{self.composition:>13.2e}"
                f"{self.composition_share:>7.3f}{self.cached:>8}  {'ok' if not self.problems else 'FAILED'}")


HEADER = (f"{'model, type, ranks':<22}{'tokens':>8}{'ties':>6}{'others':>8}{'logprobs':>11}{'bound':>10}{'share':>7}"
          f"{'HF bf16':>11}{'composition':>13}{'share':>7}{'cached':>8}")


class Check:
    """Runs of one checkpoint in one type on so many ranks, against transformers."""

    def __init__(self, options, folder, model: str, dtype: str, tp: int, exact: Reference, layers: int):
        self.options, self.folder, self.dtype, self.tp, self.exact = options, folder, dtype, tp, exact
        self.is_exact, self.layers = dtype == "float32", layers
        self.verdict = Verdict(f"{model} {dtype} tp {tp}")

    def run(self, name: str, prompts, steps, **more) -> Run:
        return run_lane(self.options, self.folder, self.dtype, self.tp, name, prompts, steps, **more)

    def bound_for(self, logits: torch.Tensor) -> float:
        """Of a log-probability's difference: of the largest (float32), or of the root mean square (bfloat16)."""
        if self.is_exact:
            return 2 * FLOAT_BOUND * logits.abs().max().item()
        return 2 * (20 * self.layers + 4) * ROUNDING * logits.square().mean().sqrt().item()

    def size_of(self, differences: torch.Tensor) -> float:
        return (differences.abs().max() if self.is_exact else differences.square().mean().sqrt()).item()

    def judge_tokens(self, run: Run) -> None:
        for i, (prompt, tokens) in enumerate(zip(run.prompts, run.tokens)):
            logits = self.exact.logits(prompt, tokens)
            chosen = logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
            behind = logits.max(1).values - chosen
            self.verdict.num_tokens += len(tokens)
            if self.is_exact:
                ties = (behind > 0) & (behind <= 2 * FLOAT_BOUND * logits.abs().max(1).values)
                others = (behind > 0) & ~ties
                self.verdict.num_ties += int(ties.sum())
            else:
                others = behind > 0
            self.verdict.num_others += int(others.sum())
            if self.is_exact and others.any():
                at = int(others.nonzero()[0])
                self.verdict.problems.append(f"{run.name}, sequence {i}: token {at} is {tokens[at]}, whose logit is "
                                             f"{behind[at].item():.3g} below that of transformers' choice")

    def judge_logprobs(self, run: Run, other: Reference | None = None) -> None:
        """Against `exact`; with `other`, how far that one is from it at the same places."""
        for i, (prompt, tokens, steps) in enumerate(zip(run.prompts, run.tokens, run.logprobs)):
            logits = self.exact.logits(prompt, tokens)
            exact = logits.log_softmax(1)
            rows = torch.tensor([at for at, step in enumerate(steps) for _ in step], device=logits.device)
            ids = torch.tensor([token for step in steps for token in step], device=logits.device)
            seen = torch.tensor([value for step in steps for value in step.values()], device=logits.device)
            size, bound = self.size_of(seen - exact[rows, ids]), self.bound_for(logits)
            if not size <= bound:
                self.verdict.problems.append(f"{run.name}, sequence {i}: logprobs are off by {size:.3g}, more than "
                                             f"{bound:.3g}")
            if not size / bound <= self.verdict.share:
                self.verdict.logprob, self.verdict.bound, self.verdict.share = size, bound, size / bound
            if other is not None:
                theirs = other.logits(prompt, tokens).log_softmax(1)[rows, ids]
                self.verdict.yardstick = max(0 if math.isnan(self.verdict.yardstick) else self.verdict.yardstick,
                                             self.size_of(theirs - exact[rows, ids]))

    def compare(self, run: Run, alone: Run) -> None:
        """Logprobs of the same sequences in two runs, for as long as they have the same tokens behind them."""
        for i, prompt in enumerate(run.prompts):
            differences = []
            for at, (mine, theirs) in enumerate(zip(run.logprobs[i], alone.logprobs[i])):
                differences += [mine[token] - theirs[token] for token in mine if token in theirs]
                if run.tokens[i][at] != alone.tokens[i][at]:
                    break
            size = self.size_of(torch.tensor(differences))
            bound = self.bound_for(self.exact.logits(prompt, alone.tokens[i]))
            if not size <= bound:
                self.verdict.problems.append(f"{run.name} and {alone.name}, sequence {i}: logprobs differ by "
                                             f"{size:.3g}, more than {bound:.3g}")
            if not size <= self.verdict.composition:
                self.verdict.composition, self.verdict.composition_share = size, size / bound

    def expect_same(self, run: Run, other: Run, why: str) -> None:
        """In float32 only a tie may part two runs, and judge_tokens() has seen to that; here it is told."""
        for i, (mine, theirs) in enumerate(zip(run.tokens, other.tokens)):
            if mine != theirs:
                at = next(at for at, (a, b) in enumerate(zip(mine, theirs)) if a != b)
                print(f"  {self.verdict.about}: {why}: sequence {i} parts at token {at}", flush=True)


def prompts_of(vocab: int, lengths, seed: int, shared: int = 0) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    draw = lambda count: torch.randint(3, vocab, (count,), generator=random).tolist()  # noqa: E731
    beginning = draw(shared)
    return [beginning + draw(length) for length in lengths]


def check(options, folder, model: str, dtype: str, tp: int, exact: Reference, yardstick, config: dict,
          is_full: bool) -> Verdict:
    self = Check(options, folder, model, dtype, tp, exact, config["num_hidden_layers"])
    most = options.steps
    lengths = [1, 17, 160, 3, 64, 33, 127, 16, 250, 5, 48, 31, 200, 2, 96, 15]
    prompts = prompts_of(config["vocab_size"], lengths, 1)
    steps = [most if i % 3 == 0 else max(2, most - 13 * i) for i in range(16)]  # the batch shrinks bit by bit

    def first(count: int, name: str, **more) -> Run:
        return self.run(name, prompts[:count], steps[:count], **more)

    batch = first(16 if is_full else 8, "logprobs in a batch", logprobs=True)
    self.judge_tokens(batch)
    self.judge_logprobs(batch, yardstick)
    plain = {}
    for count in (1, 3, 8, 16) if is_full else (8,):
        plain[count] = first(count, f"{count} at once, graphs")
        self.judge_tokens(plain[count])
        self.expect_same(plain[count], batch, f"{count} at once plain, and with logprobs")
    eager = first(8, "8 at once, eager", flags=["--enforce-eager"])
    self.judge_tokens(eager)
    self.expect_same(eager, plain[8], "8 at once without graphs, and with")
    if is_full:
        alone = first(16, "one after the other", logprobs=True, at_once=1)
        self.judge_logprobs(alone)
        self.compare(batch, alone)
        common = prompts_of(config["vocab_size"], [20, 1, 37, 5], 2, shared=100)
        by_itself = self.run("common beginning, all at once", common, [most // 4] * 4, logprobs=True, budget=1024)
        taken_over = self.run("common beginning, from the cache", common, [most // 4] * 4, logprobs=True, at_once=1)
        for run in (by_itself, taken_over):
            self.judge_tokens(run)
            self.judge_logprobs(run)
        self.compare(taken_over, by_itself)
        self.verdict.cached = taken_over.cached
        if by_itself.cached != 0 or taken_over.cached == 0:
            self.verdict.problems.append(f"prefixes: {by_itself.cached} tokens came from the cache where none should, "
                                         f"{taken_over.cached} where some should")
    return self.verdict


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lane", required=True, help="the program")
    parser.add_argument("--models", default="llama,qwen2,qwen3", help="of those three; the first is tried in full")
    parser.add_argument("--layers", type=int, default=4, help="16 is the whole 1B")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--tp", default="1,2,4", help="numbers of ranks; those above the number of GPUs are left out")
    parser.add_argument("--steps", type=int, default=256, help="tokens of the longest output")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="narrow layers: to try the script")
    parser.add_argument("--json", type=pathlib.Path, help="write the table here")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    options = parse()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device, verdicts, begin = torch.device(options.device), [], time.monotonic()
    gpus = torch.cuda.device_count() if options.device == "cuda" else 2
    print(HEADER, flush=True)
    for model in options.models.split(","):
        config = MODELS[model] | {"num_hidden_layers": options.layers} | (TINY if options.tiny else {})
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            write_checkpoint(config, folder, device)
            exact, yardstick = (Reference(folder, dtype, device) for dtype in (torch.float32, torch.bfloat16))
            for dtype in options.dtypes.split(","):
                for tp in [tp for tp in map(int, options.tp.split(",")) if tp <= gpus]:
                    is_full = model == options.models.split(",")[0]
                    verdicts.append(check(options, folder, model, dtype, tp, exact,
                                          yardstick if dtype == "bfloat16" and tp == 1 else None, config, is_full))
                    print(verdicts[-1].row(), flush=True)
            del exact, yardstick
    for verdict in verdicts:
        for problem in verdict.problems:
            print(f"{verdict.about}: {problem}")
    print(f"{time.monotonic() - begin:.0f} s; transformers {transformers.__version__}, torch {torch.__version__}")
    if options.json:
        options.json.write_text(json.dumps({"schema": 1, "kind": "exactness against transformers",
                                            "transformers": transformers.__version__, "torch": torch.__version__,
                                            "layers": options.layers, "steps": options.steps,
                                            "rows": [dataclasses.asdict(verdict) for verdict in verdicts]},
                                           indent=1) + "\n")
    sys.exit(any(verdict.problems for verdict in verdicts) or not verdicts)


if __name__ == "__main__":
    main()
