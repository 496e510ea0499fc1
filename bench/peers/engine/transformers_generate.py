#!/usr/bin/env python3
"""Hugging Face transformers' generate() as it is meant to be fast: static cache, and the decode pass compiled by
generate() itself (mode reduce-overhead, so with CUDA graphs); over several GPUs by the model's own plan,
tp_plan="auto". Random bf16 weights of the shape in config.json.

  bench/peers/engine/transformers_generate.py --shape bench/shapes/llama-8b --tp 1 --batches 1,16 --json out.json

A decode step is the distance of two CUDA events at consecutive tokens, the median over the run's steps; prefill and end
to end are wall time from and to points at which the GPU is idle, the median over the runs. What is compiled before, and
the first run after that, do not count. Batches that are not begun by --time-limit-s are left out, and the results say
so.

With --seconds-left a run that would not end in time is cut: the prefill is measured whole, and decode steps about the mean
context of a whole run, behind prompts of that length. End to end is then worked out from them, and the results say so
(end_to_end_is_extrapolated).
"""
import argparse
import json
import os
import pathlib
import statistics
import struct
import tempfile
import time

import ranks

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
import transformers  # noqa: E402


def write_empty_checkpoint(config: dict, folder: pathlib.Path) -> None:
    """A checkpoint whose weights are a hole in the file: it has the right size and takes no room, and reading it costs
    no disk. Ranks fill in random numbers once each has its slices."""
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        size = 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def load_split(config: dict, rank: int, size: int):
    """The model over all ranks, by the plan that comes with its class."""
    folder = [None]
    keeper = tempfile.TemporaryDirectory() if rank == 0 else None
    if rank == 0:
        folder = [keeper.name]
        write_empty_checkpoint(config, pathlib.Path(keeper.name))
    dist.broadcast_object_list(folder, 0)
    try:  # transformers 5.1x took the plan into an object
        from transformers.distributed import DistributedConfig
        split = {"distributed_config": DistributedConfig(tp_size=size, tp_plan="auto")}
    except (ImportError, TypeError):
        split = {"tp_plan": "auto"}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder[0], dtype=torch.bfloat16, **split)
    dist.barrier()
    if keeper:
        keeper.cleanup()
    return model


def load(config: dict, rank: int, device, options):
    if options.tp > 1:
        model = load_split(config, rank, options.tp)
    else:
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
            about = transformers.AutoConfig.from_pretrained(folder)
        with torch.device(device):
            model = transformers.AutoModelForCausalLM.from_config(about, dtype=torch.bfloat16)
    random = torch.Generator(device).manual_seed(rank)
    for name, parameter in model.named_parameters():
        mine = parameter.data.to_local() if hasattr(parameter.data, "to_local") else parameter.data
        if mine.device != device:
            raise RuntimeError(f"{name} is on {mine.device}, not on {device}")
        if "norm" in name:
            mine.fill_(1)
        else:
            mine.normal_(0, 0.02, generator=random)
    for eos in (model.generation_config, model.config):
        eos.eos_token_id = None  # full length, always
    return model.eval()


class Marks(transformers.StoppingCriteria):
    """Notes when each token was there; ends nothing."""

    def __init__(self, device):
        self.device, self.events, self.times, self.prefilled = device, [], [], None

    def __call__(self, input_ids, scores, **_):
        if self.prefilled is None:
            self.prefilled = ranks.now(self.device)
        if self.device.type == "cuda":
            self.events.append(torch.cuda.Event(enable_timing=True))
            self.events[-1].record()
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def gaps_s(self) -> list[float]:
        if self.events:
            return [a.elapsed_time(b) * 1e-3 for a, b in zip(self.events, self.events[1:])]
        return [b - a for a, b in zip(self.times, self.times[1:])]


def run_once(model, cache, prompts, device, output_len: int) -> tuple[float, float, list[float]]:
    """Seconds of the prefill, of the whole run, and of each decode step."""
    cache.reset()
    marks = Marks(device)
    start = ranks.now(device)
    tokens = model.generate(prompts, attention_mask=torch.ones_like(prompts), past_key_values=cache, pad_token_id=0,
                            max_new_tokens=output_len, do_sample=False,
                            stopping_criteria=transformers.StoppingCriteriaList([marks]))
    end = ranks.now(device)
    if tokens.shape[1] != prompts.shape[1] + output_len:
        raise RuntimeError(f"generate() ended after {tokens.shape[1] - prompts.shape[1]} tokens of {output_len}")
    return marks.prefilled - start, end - start, marks.gaps_s()


def measure(model, batch: int, device, options, result: dict) -> None:
    start = ranks.now(device)
    torch._dynamo.reset()  # or shapes of two batches would make a third, dynamic and slower
    cache = transformers.StaticCache(config=model.config, max_cache_len=options.input_len + options.output_len)
    random = torch.Generator(device).manual_seed(batch)
    prompts = torch.randint(model.config.vocab_size, (batch, options.input_len), device=device, generator=random)
    for _ in range(2):  # the first compiles, the second records graphs
        trial = run_once(model, cache, prompts, device, min(options.output_len, 8))
    result["setup_s"] = ranks.now(device) - start
    plan = ranks.runs_that_fit(options, device, trial[0], statistics.median(trial[2]), warm_ups=1)
    if plan.is_cut:
        longer = torch.randint(model.config.vocab_size, (batch, plan.past), device=device, generator=random)
        gaps = run_once(model, cache, longer, device, plan.steps + 1)[2]
        result |= ranks.summary(gaps) | ranks.of_cut_run(options, plan, trial[0], gaps)
        return
    runs = [run_once(model, cache, prompts, device, options.output_len) for _ in range(plan.warm_ups + plan.count)]
    runs = runs[plan.warm_ups:]
    result |= ranks.summary([gap for run in runs for gap in run[2]])
    result |= {"prefill_s": statistics.median(run[0] for run in runs),
               "end_to_end_s": statistics.median(run[1] for run in runs), "end_to_end_runs_s": [run[1] for run in runs]}
    compiled = torch._dynamo.utils.counters["stats"]
    result["compiled_graphs"] = compiled.get("unique_graphs", 0)


@torch.no_grad()
def work(rank: int, device, options) -> None:
    begin = time.perf_counter()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = load(ranks.load_config(options), rank, device, options)
    results = ranks.Results(rank, options, {
        "engine": "transformers generate()", "transformers": transformers.__version__,
        "load_s": ranks.now(device) - begin, "attention": model.config._attn_implementation,
        "compiled": "decode pass, by generate() itself: torch.compile(mode=reduce-overhead) over a static cache",
    })
    for batch in ranks.batches_of(options):
        late = torch.tensor([time.perf_counter() - begin > options.time_limit_s], device=device)
        if options.tp > 1:
            dist.broadcast(late, 0)
        if late.item():
            results.add({"batch": batch, "error": f"not begun within {options.time_limit_s:.0f} s"})
            continue
        with results.row(batch) as result:
            measure(model, batch, device, options, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ranks.add_arguments(parser)
    parser.add_argument("--time-limit-s", type=float, default=600, help="after this no further batch is begun")
    ranks.run_ranks(work, parser.parse_args())


if __name__ == "__main__":
    main()
