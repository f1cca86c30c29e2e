"""Language models by name: sizes of their heads, and what their config.json tells."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomae_fast._optional import require
from videomae_fast.memory.batches import CARDS

USABLE = CARDS["A100-80"]


@dataclass(frozen=True)
class Head:
    """The head of a language model: V words, each a row D wide."""

    words: int
    width: int

    def __str__(self) -> str:
        return f"{self.words:,} words, {self.width:,} wide"


# By the size of the suites: heads whose loss is timed on a CPU or a GPU, and heads whose loss is predicted.
SMALL_HEADS = {"SmolLM2-135M": Head(49_152, 576), "SmolLM2-135M with LLaMA's words": Head(32_000, 576)}
LARGE_HEADS = {"Mistral-7B": Head(32_000, 4096), "Llama-3-8B": Head(128_256, 4096)}
TINY_HEADS = {"tiny": Head(96, 16)}

# Each is the class of transformers' configuration, and its arguments: those of the config.json that is published.
LANGUAGE_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mistral-7B": (  # mistralai/Mistral-7B-Instruct-v0.2
        "MistralConfig",
        {"vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32}
        | {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32_768}
        | {"sliding_window": None, "tie_word_embeddings": False},
    ),
    "SmolLM2-360M": (  # in place of LongViViT's of 400M, which nobody else has
        "LlamaConfig",
        {"vocab_size": 49_152, "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32}
        | {"num_attention_heads": 15, "num_key_value_heads": 5, "max_position_embeddings": 8192}
        | {"tie_word_embeddings": True},
    ),
    "tiny": (
        "LlamaConfig",
        {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        | {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256},
    ),
}


def write_language_model(name: str, folder: str) -> None:
    """Write the config.json of a language model in bfloat16: all that a prediction reads."""
    kind, sizes = LANGUAGE_MODELS[name]
    config = getattr(require("transformers"), kind)(**sizes).to_dict()
    text = json.dumps(config | {"torch_dtype": "bfloat16"})
    Path(folder, "config.json").write_text(text, encoding="utf-8")
