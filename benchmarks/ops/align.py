"""The loss of rows against a teacher's, at the shapes of visible tokens of ViT-B and, as VideoMAE's is, ViT-g."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

import videomae_kernels as vk
from benchmarks.baselines import rewrites
from benchmarks.ops.workload import OURS, PUBLISHED, REWRITE, Op, OpCase, Variant, Workload

EPS = 1e-5
FLOAT32_BYTES = 4
BFLOAT16_STEPS = 0.06  # relative error of the published code, which rounds normalised rows and products to bfloat16


def _published(x: Tensor, target: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """InternVideo2's first stage: every step in the precision of the model, every result kept."""
    rows = F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), EPS)
    rows = rows / rows.norm(dim=-1, keepdim=True)
    target = target / target.norm(dim=-1, keepdim=True)
    return (2 - 2 * (rows * target).sum(dim=-1)).mean()


def _alignment_loss(case: OpCase) -> Workload:
    width, shape = case.inputs.config.encoder_dim, case.inputs.plan().visible.shape
    x, target = case.normal(*shape, width), case.normal(*shape, width).detach()
    parameters = [case.normal(width).detach().float().requires_grad_(x.requires_grad) for _ in range(2)]
    leaves = (x, *parameters)
    doubles = [leaf.detach().double().requires_grad_(x.requires_grad) for leaf in leaves]

    def of(loss: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Callable[[], Tensor]:
        return lambda: loss(x, target.to(x.dtype), *parameters)

    rows = x.numel() // width
    if case.direction == "forward":
        # x and target; weight and bias; the loss of a row and the four numbers that backward needs of it
        moved = x.nbytes + target.nbytes + FLOAT32_BYTES * (2 * width + 5 * rows)
    else:
        # x, target and the gradient of x; weight, bias, and a gradient of each; five numbers of each row
        moved = 2 * x.nbytes + target.nbytes + FLOAT32_BYTES * (4 * width + 5 * rows)
    return Workload(
        {
            PUBLISHED: Variant(of(_published, *leaves), leaves, inexact=BFLOAT16_STEPS * (case.precision == "bf16")),
            REWRITE: Variant(of(rewrites.alignment_loss, *leaves), leaves),
            OURS: Variant(of(vk.alignment_loss, *leaves), leaves),
        },
        moved,
        Variant(of(_published, *doubles), doubles),
    )


ALIGN_OPS = (Op("alignment_loss", _alignment_loss, ("forward", "backward")),)
