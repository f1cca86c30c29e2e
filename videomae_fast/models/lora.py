"""Low-rank adapters (LoRA) in the blocks of a classifier, by the library peft."""

from .._optional import require
from .classifier_parts import ClassifierParts

# The whole name of a module must match. So the projection of the patch embedding is none of them.
ADAPTED = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))"


def add_lora(model: ClassifierParts, rank: int) -> None:
    """Train adapters of the four matrices of each block and what comes after the blocks, and nothing else.

        W·x becomes W·x + B·A·x, with A (rank, in) drawn and B (out, rank) zero at first; W is frozen

    The scale is 1: peft's alpha is the rank. Names in the state dict change: `qkv.weight` becomes
    `qkv.base_layer.weight`, and `qkv.lora_A.default.weight` and `qkv.lora_B.default.weight` are new; the readers of
    `videomae_fast.interop` merge them into `qkv.weight`.

    Args:
        model: with its weights, in training mode; changed in place.
        rank: of the adapters, at least 1.

    Raises:
        ImportError: peft is not installed.
        ValueError: the rank is not positive.

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    peft = require("peft")
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=ADAPTED), model)
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if ".lora_" in name or name.partition(".")[0] in model.head_parts:
            parameter.requires_grad_(True)
