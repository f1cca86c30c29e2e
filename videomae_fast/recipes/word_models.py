"""What demos read and write captions with, small enough to train in seconds: words as tokens, and a language model.

File structure:
    word_tokenizer         the words of some captions as tokens
    write_language_model   a small LLaMA that was trained on these captions alone
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .._optional import require

WIDTH, DEPTH, HEADS = 64, 2, 4
POSITIONS = 128
INITIALIZER_RANGE = 0.1  # with transformers' 0.02, so small a model learns little in so few steps
STEPS, LR = 100, 2e-3


def word_tokenizer(captions: Sequence[str], **special: Any) -> Any:
    """A tokenizer of the words of some captions.

    Args:
        captions: the words to know; any other is `unk_token`.
        **special: special tokens by their roles, numbered in this order, such as `pad_token="[PAD]"`; and other
            arguments of `PreTrainedTokenizerFast`.

    Returns:
        A fast tokenizer of transformers.

    Raises:
        ImportError: transformers is missing.
    """
    transformers = require("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # comes with transformers

    words = Tokenizer(models.WordLevel(unk_token=special["unk_token"]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = [name for role, name in special.items() if role.endswith("_token")]
    words.train_from_iterator(captions, trainers.WordLevelTrainer(special_tokens=names))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special)


def write_language_model(folder: Path, captions: Sequence[str], seed: int) -> float:
    """Train a small LLaMA on some captions, each a text of its own, and write it with a tokenizer of their words.

    Each step has all captions, so that the loss falls towards ln(number of captions) / (mean tokens of a caption): the
    model knows the captions, and nothing of videos.

    Args:
        folder: made if it does not exist.
        captions: each once.
        seed: of the first weights.

    Returns:
        The loss of the last step: nats per token, with that of the end.

    Raises:
        ImportError: transformers is missing.
        OSError: a file cannot be written.
    """
    transformers = require("transformers")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    tokenizer = word_tokenizer(captions, **special)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": DEPTH}
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        initializer_range=INITIALIZER_RANGE,
        **{f"{role}_id": getattr(tokenizer, f"{role}_id") for role in ("pad_token", "bos_token", "eos_token")},
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config)
    texts = [f"{tokenizer.bos_token} {caption} {tokenizer.eos_token}" for caption in captions]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)  # what transformers leaves out
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, STEPS, cycle_momentum=False)
    for _ in range(STEPS):
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    found: float = loss.item()
    return found
