"""Measures the demo model on held-out prompts with greedy decoding, and writes the fixture of the end-to-end test.

The weights are the bfloat16 weights of the model folder. An answer counts as right when its `check` expression is found
in it; the share of answers that are equal to the expected text letter by letter is reported beside it.
"""

import argparse
import json
import re
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import data
import tokenizer


def load_model(folder, dtype, device):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").to(device).eval()


@torch.no_grad()
def generate(model, hf_tok, prompts, limit):
    """Greedy answers as token lists, without the end token, for prompts that include the bos text."""
    device = model.device
    stop = {hf_tok.convert_tokens_to_ids(data.EOS), hf_tok.convert_tokens_to_ids(data.EOT)}
    batch = hf_tok(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(device)
    out = model.generate(
        **batch,
        max_new_tokens=limit,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=sorted(stop),
        pad_token_id=hf_tok.convert_tokens_to_ids(data.EOS),
    )
    answers = []
    for row in out[:, batch["input_ids"].shape[1] :].tolist():
        n = 0
        while n < len(row) and row[n] not in stop:
            n += 1
        answers.append(row[: n + 1])
    return answers


def measure(folder, dtype, device, rows, batch, verbose):
    """Accuracy per task: {task: (prompts, right, equal)}."""
    hf_tok = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = load_model(folder, dtype, device)
    table = {}
    shown = {}
    for at in range(0, len(rows), batch):
        part = rows[at : at + batch]
        answers = generate(model, hf_tok, [data.prompt_text(r["messages"]) for r in part], 220)
        for row, ids in zip(part, answers):
            text = hf_tok.decode(ids, skip_special_tokens=True)
            right, equal = bool(re.search(row["check"], text)), text == row["expected"]
            n, a, b = table.get(row["task"], (0, 0, 0))
            table[row["task"]] = (n + 1, a + right, b + equal)
            if not right and shown.setdefault(row["task"], 0) < verbose:
                shown[row["task"]] += 1
                print(
                    "WRONG [%s] %s\n  got      %s\n  expected %s"
                    % (row["task"], row["messages"][-1]["content"], text, row["expected"])
                )
    return table


def write_fixture(folder, path, per_task, with_ids):
    """Held-out prompts with expected answers; the first `with_ids` of every task carry greedy token ids (fp32)."""
    hf_tok = AutoTokenizer.from_pretrained(folder)
    model = load_model(folder, torch.float32, "cpu")
    rows = data.evaluation_set(per_task, seed=7)
    count = {}
    with open(path, "w", encoding="utf-8") as f:
        for row in rows:
            row["prompt"] = data.prompt_text(row["messages"])
            template = hf_tok.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
            assert template == row["prompt"], (template, row["prompt"])
            count[row["task"]] = count.get(row["task"], 0) + 1
            if count[row["task"]] <= with_ids:
                row["prompt_ids"] = hf_tok(row["prompt"], add_special_tokens=False)["input_ids"]
                row["token_ids"] = generate(model, hf_tok, [row["prompt"]], 220)[0]
                row["text"] = hf_tok.decode(row["token_ids"], skip_special_tokens=True)
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
    print("%d prompts written" % len(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--per-task", type=int, default=500)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--verbose", type=int, default=0, help="wrong answers to print per task")
    parser.add_argument("--report", help="JSON file for the accuracies")
    parser.add_argument("--fixture", help="JSONL file of held-out prompts to write instead of measuring")
    parser.add_argument("--fixture-per-task", type=int, default=10)
    parser.add_argument("--fixture-ids", type=int, default=2)
    parser.add_argument("--ask", nargs="*", help="questions to answer instead of measuring")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    if args.device == "cpu" or args.fixture:
        torch.set_num_threads(1)
    tokenizer.load(args.model)
    if args.fixture:
        write_fixture(args.model, args.fixture, args.fixture_per_task, args.fixture_ids)
        return
    if args.ask:
        hf_tok = AutoTokenizer.from_pretrained(args.model)
        model = load_model(args.model, torch.float32, args.device)
        for question in args.ask:
            prompt = data.prompt_text([{"role": "user", "content": question}])
            print(
                "> %s\n%s"
                % (question, hf_tok.decode(generate(model, hf_tok, [prompt], 220)[0], skip_special_tokens=True))
            )
        return
    rows = data.evaluation_set(args.per_task)
    report = {}
    for name in args.dtypes.split(","):
        begin = time.time()
        table = measure(args.model, getattr(torch, name), args.device, rows, args.batch, args.verbose)
        report[name] = table
        print("%s, %.0f s" % (name, time.time() - begin))
        print("| task | prompts | right | letter by letter |\n|---|---|---|---|")
        for task, (n, right, equal) in table.items():
            print("| %s | %d | %.1f %% | %.1f %% |" % (task, n, 100 * right / n, 100 * equal / n), flush=True)
    if args.report:
        with open(args.report, "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
