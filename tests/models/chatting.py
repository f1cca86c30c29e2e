"""A tokenizer and a language model small enough for a test, and a stand-in for peft."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = ["<Video></Video> What moves here? A red square moves left.", "The wide blue columns stand still."]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Strict in the order of roles, and the space before an answer is the answer's.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)


def tokenizer(template: str | None = CHATML, texts: Sequence[str] = TEXT, size: int = 300, **changes: Any) -> Any:
    """Byte-level BPE of `size` tokens, trained on some texts."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|im_start|>", "<|im_end|>", "<s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    found.train_from_iterator(texts, trainer)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|end|>", "bos_token": "<s>"} | changes
    fast = PreTrainedTokenizerFast(tokenizer_object=found, **names)
    fast.chat_template = template
    return fast


def language_model(**changes: Any) -> LlamaForCausalLM:
    """LLaMA of two layers, random."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **(
            sizes
            | {"num_key_value_heads": 2, "vocab_size": 304, "max_position_embeddings": 128, "initializer_range": 0.2}
            | changes
        ),
        bos_token_id=3,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return LlamaForCausalLM(config)


@dataclass
class LoraConfig:
    """What peft's documentation says of the arguments that are used."""

    r: int
    lora_alpha: float
    lora_dropout: float
    target_modules: list[str]


class LoraLinear(nn.Module):
    """W·x + alpha / r · B·A·dropout(x), with the names and attributes of peft."""

    merged = disable_adapters = False
    active_adapters = ("default",)

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        self.base_layer = base
        a, b = nn.Linear(base.in_features, config.r, bias=False), nn.Linear(config.r, base.out_features, bias=False)
        self.lora_A, self.lora_B = (
            nn.ModuleDict({"default": a.to(base.weight)}),
            nn.ModuleDict({"default": b.to(base.weight)}),
        )
        self.lora_dropout = nn.ModuleDict({"default": nn.Dropout(config.lora_dropout)})
        self.scaling = {"default": config.lora_alpha / config.r}
        nn.init.zeros_(b.weight)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.lora_A["default"], self.lora_B["default"]
        low = first(self.lora_dropout["default"](x.to(first.weight.dtype)))
        base = self.base_layer(x)
        return base + (second(low) * self.scaling["default"]).to(base.dtype)


def inject_adapter_in_model(config: LoraConfig, model: nn.Module) -> nn.Module:
    """In place of the linear maps whose names end so."""
    for name, module in list(model.named_modules()):
        parent, _, last = name.rpartition(".")
        if last in config.target_modules and isinstance(module, nn.Linear):
            setattr(model.get_submodule(parent), last, LoraLinear(module, config))
    return model


def stand_in_for_peft() -> ModuleType:
    """A module that does what `add_language_lora` needs of peft, where peft is not installed."""
    module: Any = ModuleType("peft")
    module.LoraConfig, module.inject_adapter_in_model = LoraConfig, inject_adapter_in_model
    return cast(ModuleType, module)
