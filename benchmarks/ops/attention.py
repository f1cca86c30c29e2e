"""Attention backends at the shapes of encoder and decoder. A backend that cannot run here is listed with the reason."""

from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.ops.workload import PUBLISHED, Op, OpCase, Variant, Workload
from videomae_fast.models.attention import BACKENDS, attention, unavailable_reason

CHECKED_AT_ONCE = 4  # samples of the float64 check, whose scores are tensors


def _published(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return (((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v).transpose(1, 2)


def _truth(*qkv: Tensor) -> Tensor:
    parts = zip(*(x.split(CHECKED_AT_ONCE) for x in qkv), strict=True)
    return torch.cat([checkpoint(_published, *part, use_reentrant=False) for part in parts])


def _attention(case: OpCase, stack: str) -> Workload:
    config, plan = case.inputs.config, case.inputs.plan()
    length, dim, heads = plan.visible.shape[1], config.encoder_dim, config.encoder_heads
    if stack == "decoder":
        length, dim, heads = length + plan.decoded.shape[1], config.decoder_dim, config.decoder_heads
    qkv = [case.normal(case.batch_size, length, heads, dim // heads) for _ in range(3)]
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in qkv]
    variants = {PUBLISHED: Variant(lambda: _published(*qkv), qkv)}
    for name in BACKENDS:
        missing = name != "sdpa" and find_spec(name.replace("-", "_")) is None
        reason = "not installed" if missing else unavailable_reason(name, case.device)
        if name == "flash-attn" and case.precision == "fp32":
            reason = reason or "flash-attn has no float32"
        q, k, v = qkv
        variants[name] = Variant(partial(attention, q, k, v, backend=name), qkv, unavailable=reason)
    # forward: q, k, v and the result; backward: the same, the result's gradient and three gradients
    moved = qkv[0].nbytes * (4 if case.direction == "forward" else 8)
    return Workload(variants, moved, Variant(lambda: _truth(*doubles), doubles))


ATTENTION_OPS = tuple(
    Op(
        f"attention, {stack}",
        partial(_attention, stack=stack),
        ("forward", "backward"),
        variants=(PUBLISHED, *BACKENDS),
    )
    for stack in ("encoder", "decoder")
)
