"""Trains the demo model's tokenizer: byte-level BPE in the form of Llama 3's tokenizer.json.

While the merges are learned every digit stands alone, so no merge joins two digits and each digit stays one token; the
saved pre-tokenizer is Llama 3's own.
"""

import argparse
import json
import os
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import data

VOCAB_SIZE = 1024
SPECIAL = [
    data.BOS,
    data.EOS,
    data.SH,
    data.EH,
    data.EOT,
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|reserved_special_token_2|>",
]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def corpus(samples, seed=7):
    """Texts of training problems; names of roles occur as well, since headers are tokenized too."""
    rng = random.Random(seed)
    for _ in range(samples):
        messages, _ = data.conversation(rng)
        for message in messages:
            yield message["role"]
            yield message["content"]


def train(samples):
    tok = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.Digits(individual_digits=True), byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tok.train_from_iterator(corpus(samples), trainer)
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(SPECIAL)
    bos = tok.token_to_id(data.BOS)
    tok.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=data.BOS + " $A", pair=data.BOS + " $A " + data.BOS + ":1 $B:1", special_tokens=[(data.BOS, bos)]
            ),
        ]
    )
    text = json.loads(tok.to_str())
    text["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(text, ensure_ascii=False))


def load(folder):
    """Loads the tokenizer and tells `data` which words are single tokens."""
    tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    data.set_vocabulary(tok.get_vocab().keys())
    data.set_pieces()
    return tok


def save(tok, folder):
    """Writes the four tokenizer files of the model folder."""
    os.makedirs(folder, exist_ok=True)
    tok.save(os.path.join(folder, "tokenizer.json"))

    def write(name, value):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(value, f, indent=2, ensure_ascii=False)
            f.write("\n")

    entry = {
        t: {"content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False} for t in SPECIAL
    }
    write(
        "special_tokens_map.json",
        {"bos_token": entry[data.BOS], "eos_token": entry[data.EOT], "pad_token": entry[data.EOS]},
    )
    write(
        "tokenizer_config.json",
        {
            "added_tokens_decoder": {str(tok.token_to_id(t)): dict(entry[t], special=True) for t in SPECIAL},
            "bos_token": data.BOS,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": data.EOT,
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 1024,
            "pad_token": data.EOS,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="model folder to write the tokenizer files into")
    parser.add_argument("--samples", type=int, default=30000)
    args = parser.parse_args()
    tok = train(args.samples)
    save(tok, args.out)
    tok = load(args.out)
    assert tok.get_vocab_size() == VOCAB_SIZE
    assert not any(sum(c.isdigit() for c in t) > 1 for t in tok.get_vocab() if t not in SPECIAL)
    rng = random.Random(3)
    texts = ["".join(s for s, _ in data.segments(data.conversation(rng)[0])) for _ in range(2000)]
    tokens = sum(len(e.ids) for e in tok.encode_batch(texts, add_special_tokens=False))
    print(
        "vocabulary %d, %.1f tokens per chat, %.2f characters per token"
        % (VOCAB_SIZE, tokens / len(texts), sum(map(len, texts)) / tokens)
    )
    for text in texts:
        assert tok.decode(tok.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


if __name__ == "__main__":
    main()
