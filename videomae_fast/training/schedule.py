"""The published optimizer settings: parameter groups, and the learning rate of every step (utils.py)."""

import math

from torch import nn
from torch.optim import AdamW

from .config import PretrainConfig


def scaled_lr(lr: float, videos_per_step: int) -> float:
    """lr · videos_per_step / 256. Repeated augmentation does not count: a video with 4 crops counts once."""
    return lr * videos_per_step / 256


def learning_rate(step: int, config: PretrainConfig, steps_per_epoch: int, videos_per_step: int) -> float:
    """Learning rate of a step: linear from 0 over the warm-up, then half a cosine down to final_lr."""
    peak, final = scaled_lr(config.lr, videos_per_step), scaled_lr(config.final_lr, videos_per_step)
    warmup, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if step < warmup:
        return peak * step / max(1, warmup - 1)
    progress = (step - warmup) / (total - warmup)
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, config: PretrainConfig) -> AdamW:
    """AdamW that decays matrices only: no vectors, biases or the mask token.

    The published script does decay the mask token when it runs under torch.compile, because a name then no longer
    matches; that accident is not repeated here.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_kept = parameter.ndim <= 1 or name.endswith("mask_token")
        (kept if is_kept else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return AdamW(groups, lr=0.0, betas=(0.9, config.beta2), eps=1e-8, fused=True)
