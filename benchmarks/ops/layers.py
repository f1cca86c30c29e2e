"""What lies between the matrix products of a block, at the encoder's shapes: norms, residual additions, activation.

Norms of other libraries are measured beside ours, and listed as not installed where they are not.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import videomae_kernels as vk
from benchmarks.baselines import rewrites
from benchmarks.ops.workload import COMPILED, OURS, PUBLISHED, REWRITE, Op, OpCase, Variant, Workload

EPS = 1e-6
FLASH_ATTN, LIGER = "flash-attn", "liger"
RIVALS = {FLASH_ATTN: "flash_attn.ops.triton.layer_norm", LIGER: "liger_kernel.ops.layer_norm"}
RMS_RIVALS = {FLASH_ATTN: "flash_attn.ops.triton.layer_norm", LIGER: "liger_kernel.ops.rms_norm"}
FLOAT32_BYTES = 4


def _flash_attn(x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor) -> Any:
    from flash_attn.ops.triton.layer_norm import layer_norm_fn

    if branch is None:
        return layer_norm_fn(x, weight, bias, eps=EPS)
    y, total = layer_norm_fn(branch, weight, bias, residual=x, eps=EPS, prenorm=True)
    return total, y


def _liger(x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor) -> Any:
    from liger_kernel.ops.layer_norm import LigerLayerNormFunction

    norm = LigerLayerNormFunction.apply
    if branch is None:
        return norm(x, weight, bias, EPS)
    total = x + branch
    return total, norm(total, weight, bias, EPS)


def _flash_attn_rms(x: Tensor, branch: Tensor | None, weight: Tensor) -> Any:
    from flash_attn.ops.triton.layer_norm import rms_norm_fn

    if branch is None:
        return rms_norm_fn(x, weight, None, eps=EPS)
    y, total = rms_norm_fn(branch, weight, None, residual=x, eps=EPS, prenorm=True)
    return total, y


def _liger_rms(x: Tensor, branch: Tensor | None, weight: Tensor) -> Any:
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    total = x if branch is None else x + branch
    y = LigerRMSNormFunction.apply(total, weight, EPS, 0.0, "llama", False)  # gradients are not overwritten
    return y if branch is None else (total, y)


def _why_not(module: str, device: torch.device) -> str | None:
    """Why a library's kernels cannot run here, or None."""
    parts = module.split(".")
    try:  # a package without the module, such as flash-attn 4 alone, counts as none
        missing = any(find_spec(".".join(parts[: i + 1])) is None for i in range(len(parts)))
    except ImportError:
        missing = True
    if missing:
        return "not installed"
    return None if device.type == "cuda" else "needs a GPU"


def _rows(case: OpCase, width: int) -> Tensor:
    return case.normal(*case.inputs.plan().visible.shape, width)


def _parameter(case: OpCase, width: int) -> Tensor:
    return case.normal(width, dtype=torch.float32)  # as autocast leaves it


def _doubles(case: OpCase, leaves: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().double().requires_grad_(case.direction == "backward") for x in leaves]


def _variants(
    calls: dict[str, Callable[..., Any]], leaves: Sequence[Tensor], rivals: dict[str, str], device: torch.device
) -> dict[str, Variant]:
    return {
        name: Variant(
            partial(call, *leaves),
            leaves,
            unavailable=_why_not(rivals[name], device) if name in rivals else None,
        )
        for name, call in calls.items()
    }


def _norm(case: OpCase, add: bool) -> Workload:
    width = case.inputs.config.encoder_dim
    leaves = [_rows(case, width) for _ in range(1 + add)] + [_parameter(case, width) for _ in range(2)]
    doubles = _doubles(case, leaves)

    def published(*inputs: Tensor) -> Any:
        """Autocast computes norms in float32, and the linear map that follows rounds their result again."""
        *rows, weight, bias = inputs
        total = rows[0] + rows[1] if add else rows[0]
        y = F.layer_norm(total.float(), (width,), weight, bias, EPS).to(case.dtype)
        return (total, y) if add else y

    def of(rival: Callable[..., Any]) -> Callable[..., Any]:
        return rival if add else lambda x, *parameters: rival(x, None, *parameters)

    rewrite: Callable[..., Any] = rewrites.add_layer_norm if add else rewrites.layer_norm
    ours: Callable[..., Any] = vk.add_layer_norm if add else vk.layer_norm
    calls: dict[str, Callable[..., Any]] = {
        PUBLISHED: published,
        REWRITE: partial(rewrite, eps=EPS),
        FLASH_ATTN: of(_flash_attn),
        LIGER: of(_liger),
        OURS: partial(ours, eps=EPS),
    }
    variants = _variants(calls, leaves, RIVALS, case.device)
    rows = leaves[0].numel() // width
    if case.direction == "forward":
        # x, branch, sum and y; weight and bias; nothing is kept without gradients
        moved = leaves[0].nbytes * (4 if add else 2) + 2 * FLOAT32_BYTES * width
    else:
        # sum, the gradients of sum and y, and that of x, which is also the branch's; statistics; weight, two gradients
        moved = leaves[0].nbytes * (4 if add else 3) + FLOAT32_BYTES * (2 * rows + 3 * width)
    return Workload(variants, moved, Variant(lambda: calls[REWRITE](*doubles), doubles))


def _rms_norm(case: OpCase, add: bool) -> Workload:
    """With an addition also InternVideo2's LayerScale, which other libraries leave to PyTorch."""
    width = case.inputs.config.encoder_dim
    leaves = [_rows(case, width) for _ in range(1 + add)] + [_parameter(case, width) for _ in range(1 + add)]
    doubles = _doubles(case, leaves)

    def published(*inputs: Tensor) -> Any:
        """InternVideo2 scales branches and computes norms in float32."""
        if not add:
            x, weight = inputs
            return F.rms_norm(x.float(), (width,), weight, EPS).to(case.dtype)
        x, branch, weight, scale = inputs
        total = x + (branch.float() * scale).to(case.dtype)
        return total, F.rms_norm(total.float(), (width,), weight, EPS).to(case.dtype)

    def of(rival: Callable[..., Any]) -> Callable[..., Any]:
        if not add:
            return lambda x, weight: rival(x, None, weight)
        return lambda x, branch, weight, scale: rival(x, branch * scale.to(case.dtype), weight)

    def ours(x: Tensor, *others: Tensor) -> Any:
        if not add:
            return vk.rms_norm(x, others[0], EPS)
        branch, weight, scale = others
        return vk.add_rms_norm(x, branch, weight, EPS, scale=scale)

    rewrite: Callable[..., Any] = rewrites.add_rms_norm if add else rewrites.rms_norm
    calls: dict[str, Callable[..., Any]] = {
        PUBLISHED: published,
        REWRITE: partial(rewrite, eps=EPS),
        FLASH_ATTN: of(_flash_attn_rms),
        LIGER: of(_liger_rms),
        OURS: ours,
    }
    variants = _variants(calls, leaves, RMS_RIVALS, case.device)
    rows = leaves[0].numel() // width
    if case.direction == "forward":
        # x, branch, sum and y; weight and scale; nothing is kept without gradients
        moved = leaves[0].nbytes * (4 if add else 2) + FLOAT32_BYTES * width * (1 + add)
    else:
        # sum, branch, the gradients of sum and y, those of x and branch; a number a row; parameters and gradients
        moved = leaves[0].nbytes * (6 if add else 3) + FLOAT32_BYTES * (rows + 2 * width * (1 + add))
    return Workload(variants, moved, Variant(lambda: calls[REWRITE](*doubles), doubles))


def _drawn_norm(case: OpCase) -> Workload:
    """Between two branches of a block of InternVideo2 that each run on three quarters of the clips."""
    width, x = case.inputs.config.encoder_dim, _rows(case, case.inputs.config.encoder_dim)
    batch, kept = len(x), max(1, 3 * len(x) // 4)
    leaves = [x, case.normal(kept, *x.shape[1:]), _parameter(case, width), _parameter(case, width)]
    doubles = _doubles(case, leaves)
    ran, runs = (torch.randperm(batch, device=case.device) for _ in range(2))
    factor, draws = batch / kept, {"factor": batch / kept, "ran": ran.argsort(), "runs": runs.argsort(), "count": kept}

    def published(x: Tensor, branch: Tensor, weight: Tensor, scale: Tensor) -> Any:
        """Scales in float32; stochastic depth and the norm are PyTorch's operations on the same samples."""
        total = x.index_add(0, ran[:kept], (branch.float() * scale).to(case.dtype), alpha=factor)
        return total, F.rms_norm(total.index_select(0, runs[:kept]).float(), (width,), weight, EPS).to(case.dtype)

    def rewrite(x: Tensor, branch: Tensor, weight: Tensor, scale: Tensor) -> Any:
        return rewrites.add_drawn_norm(x, branch, weight, scale, ran[:kept], runs[:kept], factor, EPS)

    def ours(x: Tensor, branch: Tensor, weight: Tensor, scale: Tensor) -> Any:
        return vk.add_drawn_norm(x, branch, weight, None, EPS, scale=scale, **draws)[::2]  # type: ignore[arg-type]

    calls: dict[str, Callable[..., Any]] = {PUBLISHED: published, REWRITE: rewrite, OURS: ours}
    variants = _variants(calls, leaves, {}, case.device)
    rows = leaves[1].numel() // width
    if case.direction == "forward":
        # x and sum; branch, normalised rows and y, of three quarters of the clips; weight and scale
        moved = 2 * x.nbytes + 3 * leaves[1].nbytes + 2 * FLOAT32_BYTES * width
    else:
        # gradients of sum and x; rows, branch, the gradients of y and of branch; a number a row; parameters, gradients
        moved = 2 * x.nbytes + 4 * leaves[1].nbytes + FLOAT32_BYTES * (rows + 4 * width)
    return Workload(variants, moved, Variant(lambda: rewrite(*doubles), doubles))


def _bias_gelu(case: OpCase) -> Workload:
    config = case.inputs.config
    width = int(config.encoder_dim * config.mlp_ratio)
    x, bias = _rows(case, width), _parameter(case, width)
    biased = (x.detach() + bias.detach()).to(case.dtype).requires_grad_(x.requires_grad)
    doubles = _doubles(case, (x, bias))
    return Workload(
        {
            REWRITE: Variant(lambda: rewrites.bias_gelu(biased, bias), (biased, bias)),
            OURS: Variant(lambda: vk.bias_gelu(x, bias), (x, bias)),
        },
        # forward: x and the result; backward: x and two gradients; the bias, and its gradient
        x.nbytes * (2 if case.direction == "forward" else 3)
        + FLOAT32_BYTES * width * (1 if case.direction == "forward" else 2),
        Variant(lambda: F.gelu(doubles[0] + doubles[1]), doubles),
    )


BOTH = ("forward", "backward")
NORMS = (PUBLISHED, REWRITE, COMPILED, FLASH_ATTN, LIGER, OURS)
LAYER_OPS = (
    Op("layer_norm", lambda case: _norm(case, add=False), BOTH, variants=NORMS),
    Op("add_layer_norm", lambda case: _norm(case, add=True), BOTH, variants=NORMS),
    Op("rms_norm", lambda case: _rms_norm(case, add=False), BOTH, variants=NORMS),
    Op("add_rms_norm", lambda case: _rms_norm(case, add=True), BOTH, variants=NORMS),
    Op("add_drawn_norm", _drawn_norm, BOTH, variants=(PUBLISHED, REWRITE, COMPILED, OURS)),
    Op("bias_gelu", _bias_gelu, BOTH, variants=(REWRITE, COMPILED, OURS)),
)
