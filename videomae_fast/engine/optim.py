"""The published optimizer: AdamW, what decays, and the learning rate of every step (utils.py of VideoMAE V2)."""

import math
from collections.abc import Collection
from typing import Any

from torch import nn
from torch.optim import AdamW


def scaled_lr(lr: float, samples_per_step: int) -> float:
    """lr · samples_per_step / 256. A video counts once, however many crops are cut from it."""
    return lr * samples_per_step / 256


def learning_rate(step: int, options: Any, steps_per_epoch: int, samples_per_step: int) -> float:
    """Learning rate of a step: linear from 0 over the warm-up, then half a cosine down to `final_lr`.

        warm-up (w steps):  peak · step / (w − 1)
        then:               final + ½ (peak − final) (1 + cos(π (step − w) / (total − w)))

    Args:
        step: the step, counted from 0.
        options: `OptimizerOptions`: lr, final_lr, epochs and warmup_epochs count.
        steps_per_epoch: optimizer steps of an epoch.
        samples_per_step: samples of an optimizer step, over all ranks and accumulated batches; see `scaled_lr`.

    Returns:
        The learning rate.

    References:
        `cosine_scheduler` in utils.py of VideoMAE V2.
    """
    peak, final = scaled_lr(options.lr, samples_per_step), scaled_lr(options.final_lr, samples_per_step)
    warmup, total = options.warmup_epochs * steps_per_epoch, options.epochs * steps_per_epoch
    if step < warmup:
        return peak * step / max(1, warmup - 1)
    progress = (step - warmup) / (total - warmup)
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, options: Any, undecayed: Collection[str] = ()) -> AdamW:
    """AdamW that decays matrices only: no vectors, no biases, and no parameter named in `undecayed`.

    Args:
        model: its parameters are optimized.
        options: `OptimizerOptions`: weight_decay and beta2 count.
        undecayed: last parts of the names of parameters that are not decayed either, such as "mask_token".

    Returns:
        The optimizer, at learning rate 0: the loop sets the rate before every step.

    References:
        optim_factory.py of VideoMAE V2. Its pre-training does decay the mask token under torch.compile, because the
        name then no longer matches; this function does not repeat that accident.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_kept = parameter.ndim <= 1 or name.rpartition(".")[2] in undecayed
        (kept if is_kept else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return AdamW(groups, lr=0.0, betas=(0.9, options.beta2), eps=1e-8, fused=True)
