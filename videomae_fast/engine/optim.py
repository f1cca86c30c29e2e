"""The published optimizer: AdamW, the choice of decayed parameters, and the learning rate of every step."""

import math
from collections.abc import Callable, Collection
from typing import Any

from torch import nn
from torch.optim import AdamW


def scaled_lr(lr: float, samples_per_step: int) -> float:
    """lr · samples_per_step / 256. A video counts once, whatever the number of its crops."""
    return lr * samples_per_step / 256


def learning_rate(step: int, options: Any, steps_per_epoch: int, samples_per_step: int) -> float:
    """The learning rate of a step: linear from 0 over the warm-up, then half a cosine down to `final_lr`.

        warm-up (w steps):  peak · step / (w − 1)
        then:               final + ½ (peak − final) (1 + cos(π (step − w) / (total − w)))

    Args:
        step: the step, counted from 0.
        options: `OptimizerOptions`; this reads lr, final_lr, epochs and warmup_epochs.
        steps_per_epoch: optimizer steps of an epoch.
        samples_per_step: samples of an optimizer step, over all ranks and parts.

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


def make_optimizer(
    model: nn.Module,
    options: Any,
    undecayed: Collection[str] = (),
    layer: Callable[[str], int] | None = None,
    eps: float = 1e-8,
) -> AdamW:
    """Make an AdamW that decays matrices only: no vectors, no biases, and no parameter named in `undecayed`.

    With `layer`, learning rates decay with depth: those of layer l are scaled by

        layer_decay^(last − l),    last: the largest layer of the model

    Each group of parameters has its factor as `lr_scale`; the loop multiplies by it. Parameters that do not require
    gradients are in no group.

    Args:
        model: the bare model, whose parameters the optimizer updates: wrappers change names.
        options: `OptimizerOptions`; this reads weight_decay and beta2, and with `layer` also layer_decay.
        undecayed: last parts of the names of further parameters without weight decay, such as "mask_token".
        layer: gives the layer of a parameter from its name; None: all have the same learning rate.
        eps: of AdamW, added to the root of the second moment.

    Returns:
        The optimizer, at learning rate 0: the loop sets the rate before every step.

    Raises:
        ValueError: no parameter requires a gradient.

    References:
        optim_factory.py of VideoMAE V2. Under torch.compile, the published pre-training decays the mask token, because
        its name no longer matches; this function does not.
    """
    last = max(layer(name) for name, _ in model.named_parameters()) if layer else 0
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_kept = parameter.ndim <= 1 or name.rpartition(".")[2] in undecayed
            groups.setdefault((last - layer(name) if layer else 0, is_kept), []).append(parameter)
    if not groups:
        raise ValueError("model has no parameter that requires a gradient: there is nothing to train")
    settings = [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_kept else options.weight_decay,
            "lr_scale": options.layer_decay**depth if layer else 1.0,
        }
        for (depth, is_kept), parameters in sorted(groups.items(), key=lambda group: group[0])
    ]
    return AdamW(settings, lr=0.0, betas=(0.9, options.beta2), eps=eps, fused=True)
