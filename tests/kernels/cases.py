"""One small call of every public op, for the tests that ask the same of all of them (test_every_op.py)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import videomae_kernels as vk
from videomae_kernels.testing import make_clip, make_index

GRID, PATCH = (4, 4, 6), (2, 4, 4)
TOKENS = GRID[0] * GRID[1] * GRID[2]
WIDTH, KEPT = 5, 3  # an odd width: nothing is a multiple of a vector load
PIXELS = 3 * PATCH[0] * PATCH[1] * PATCH[2]
# What the package exports besides ops.
NOT_OPS = {"RESIZES", "CroppedClips", "cat_clips", "check_indices", "crop_matrix", "philox_keys", "runs_triton"}
MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Case:
    """`call(*inputs)` runs the op; inputs that are floating are the ones it is differentiable in."""

    name: str
    call: Callable[..., Any]
    inputs: Callable[[int, torch.dtype, torch.device], tuple[Tensor, ...]]
    differentiable: bool = True

    def __call__(
        self,
        *,
        batch: int = 2,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        grad: bool = False,
    ) -> tuple[Tensor, ...]:
        """Fresh inputs, leaves that require a gradient if `grad`."""
        made = self.inputs(batch, dtype, torch.device(device))
        return tuple(x.detach().requires_grad_(grad and x.is_floating_point()) for x in made)


def _normal(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, device=device).to(dtype)


def _clip(batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return make_clip(GRID, PATCH, batch=batch, dtype=dtype, layout="BTHWC", device=device)


def _gather_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return _normal(batch, TOKENS, WIDTH, dtype=dtype, device=device), make_index(batch, KEPT, TOKENS, device=device)


def _scatter_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    tokens = _normal(batch, KEPT, WIDTH, dtype=dtype, device=device)
    index = make_index(batch, KEPT, TOKENS, dtype=torch.int32, device=device)
    return tokens, index, _normal(WIDTH, dtype=dtype, device=device)


def _assemble_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return (
        _normal(batch, KEPT, WIDTH, dtype=dtype, device=device),
        _normal(WIDTH, dtype=dtype, device=device),
        _normal(TOKENS, WIDTH, dtype=dtype, device=device),
        make_index(batch, KEPT, TOKENS, device=device),
        make_index(batch, 2 * KEPT, TOKENS, device=device),
    )


def _norm_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    rows = _normal(2, batch, KEPT, WIDTH, dtype=dtype, device=device)
    return *rows, _normal(WIDTH, dtype=dtype, device=device), _normal(WIDTH, dtype=dtype, device=device)


def _drawn_norm_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """A branch of half of the samples, after the first the last ones, and every second sample for the next branch."""
    x, branch, weight, bias = _norm_inputs(batch, dtype, device)
    half, numbers = (batch + 1) // 2, torch.arange(batch, device=device)
    runs = torch.cat((numbers[::2], numbers[1::2])).argsort()
    ran = torch.cat((numbers[:1], numbers[1:].flip(0)))
    return x, branch[:half], weight, bias, _normal(WIDTH, dtype=dtype, device=device), ran, runs


def _add_drawn_norm(x: Tensor, branch: Tensor, weight: Tensor, *others: Tensor) -> Tensor:
    """With a bias, too, if there are two more vectors. The last row that was normalised stands in for the others."""
    *bias, scale, ran, runs = others
    draws = dict(ran=ran, runs=runs, count=len(branch))
    total, _, y = vk.add_drawn_norm(x, branch, weight, *bias, scale=scale, factor=1.25, **draws)  # type: ignore[arg-type]
    return torch.cat((total, y.index_select(0, runs.clamp(max=len(y) - 1))), -1)


def _alignment_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Targets are integers, since a case's floating inputs are differentiated."""
    x, _, weight, bias = _norm_inputs(batch, dtype, device)
    return x, torch.randint(-9, 10, x.shape, device=device), weight, bias


def _contrast_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Rows are pairs, not samples: there are more than of the batch, since one pair has no negative."""
    rows = _normal(2, batch + KEPT, WIDTH, dtype=dtype, device=device)
    numbers = (torch.tensor(value, dtype=dtype, device=device) for value in (2.5, -1.5))
    return *rows, *numbers, torch.arange(batch + KEPT, device=device) // 2


def _embed_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return (
        _clip(batch, dtype, device),
        make_index(batch, KEPT, TOKENS, device=device),
        _normal(WIDTH, 3, *PATCH, dtype=dtype, device=device),
        _normal(WIDTH, dtype=dtype, device=device),
        _normal(TOKENS, WIDTH, dtype=dtype, device=device),
    )


def _loss_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    pred = _normal(batch, KEPT, PIXELS, dtype=dtype, device=device)
    clip = _clip(batch, torch.float64 if dtype == torch.float64 else torch.uint8, device)
    return pred, clip, make_index(batch, KEPT, TOKENS, device=device)


def _mask_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    index = make_index(batch, KEPT, TOKENS, device=device)
    return (torch.zeros(batch, TOKENS, dtype=torch.bool, device=device).scatter_(1, index, True),)


def _select_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return make_index(batch, KEPT, TOKENS, device=device), torch.arange(batch, device=device) % 4


def _samples(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    return (torch.arange(3, 3 + batch, device=device),)


def _weighted_samples(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    weights = torch.rand(batch, GRID[0], GRID[1] * GRID[2], device=device).to(dtype)
    return weights.where(weights > 0.3, 0), *_samples(batch, dtype, device)


def _weighted_loss(pred: Tensor, clip: Tensor, index: Tensor) -> Tensor:
    # A float64 clip is what gradcheck needs; it counts as already normalised.
    denormalize = None if clip.dtype == torch.uint8 else MEAN_STD
    weight = torch.arange(1, 1 + index.numel(), device=clip.device).view(index.shape)
    return vk.masked_patch_loss(
        pred, clip, index, PATCH, layout="BTHWC", denormalize=denormalize, weight=weight.to(torch.float32)
    )


def _cropped(*tensors: Tensor) -> vk.CroppedClips:
    """Of "pillow", whose weights are integers: a case's floating inputs are differentiated, and weights are not."""
    return vk.CroppedClips(*tensors, GRID[0] * PATCH[0], (GRID[1] * PATCH[1], GRID[2] * PATCH[2]), "pillow")  # type: ignore[misc]


def _rows_and_targets(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    clips, index = _cropped(*tensors[:-1]), tensors[-1]
    return vk.tube_mask_gather(clips, index, PATCH), vk.patch_targets(clips, index, PATCH)


def _cropped_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    source = torch.randint(0, 256, (GRID[0] * PATCH[0], 19, 27, 3), dtype=torch.uint8)
    boxes = [(1, 2, 17, 23 - b % 3) for b in range(batch)]
    clips = vk.crop_clips([source], [0] * batch, boxes, [b % 2 == 1 for b in range(batch)], (16, 24), "pillow")
    index = make_index(batch, KEPT, TOKENS, device=device)
    return *(x.to(device) for x in (clips.frames, clips.geometry, clips.first, clips.weights)), index


def _few_cropped_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Of 2 · 1 · 2 tokens, since the interpreter takes long to resize."""
    source = torch.randint(0, 256, (2 * PATCH[0], 5, 11, 3), dtype=torch.uint8)
    clips = vk.crop_clips(
        [source], [0] * batch, [(0, b % 2, 5, 10) for b in range(batch)], [False] * batch, (4, 8), "pillow"
    )
    return tuple(x.to(device) for x in (clips.frames, clips.geometry, clips.first, clips.weights))


def _changed_of_few(*tensors: Tensor) -> Tensor:
    return vk.changed_token_index(vk.CroppedClips(*tensors, 2 * PATCH[0], (4, 8), "pillow"), 3, PATCH)  # type: ignore[misc]


def _warp_inputs(batch: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Numbers of few bits, so that float32 has every position exactly: half a shear, and a point outside."""
    matrix = torch.tensor([[-1.0, 0.5, 20.25], [0.125, 0.75, 1.5]], device=device)
    offset = torch.arange(batch, device=device).view(-1, 1, 1) * 0.25
    return *_cropped_inputs(batch, dtype, device)[:-1], matrix + offset


CASES = (
    Case("gather_tokens", vk.gather_tokens, _gather_inputs),
    Case("masked_token_scatter", lambda t, i, m: vk.masked_token_scatter(t, i, TOKENS, m), _scatter_inputs),
    Case(
        "masked_token_scatter_zeros",
        lambda t, i: vk.masked_token_scatter(t, i, TOKENS),
        lambda *made_for: _scatter_inputs(*made_for)[:2],
    ),
    Case("assemble_decoder_tokens", vk.assemble_decoder_tokens, _assemble_inputs),
    Case("layer_norm", vk.layer_norm, lambda *made_for: _norm_inputs(*made_for)[1:]),
    # Both results side by side, so that a gradient reaches both.
    Case("add_layer_norm", lambda *inputs: torch.cat(vk.add_layer_norm(*inputs), -1), _norm_inputs),
    Case("rms_norm", vk.rms_norm, lambda *made_for: _norm_inputs(*made_for)[1:3]),
    Case("add_rms_norm", lambda *inputs: torch.cat(vk.add_rms_norm(*inputs), -1), lambda *m: _norm_inputs(*m)[:3]),
    Case("add_rms_norm_scaled", lambda x, b, w, s: torch.cat(vk.add_rms_norm(x, b, w, scale=s), -1), _norm_inputs),
    Case("add_drawn_norm", _add_drawn_norm, _drawn_norm_inputs),
    Case(
        "add_drawn_norm_without_bias",
        _add_drawn_norm,
        lambda *made_for: tuple(t for i, t in enumerate(_drawn_norm_inputs(*made_for)) if i != 3),
    ),
    Case("bias_gelu", vk.bias_gelu, lambda *made_for: _norm_inputs(*made_for)[1:3]),
    Case(
        "alignment_loss",
        lambda x, target, weight, bias: vk.alignment_loss(x, target.to(x.dtype), weight, bias),
        _alignment_inputs,
    ),
    Case("contrastive_loss", vk.contrastive_loss, lambda *made_for: _contrast_inputs(*made_for)[:3]),
    Case(
        "contrastive_loss_of_groups",
        lambda x, y, scale, ids: vk.contrastive_loss(x, y, scale, x_ids=ids, y_ids=ids.flip(0)),
        lambda *made_for: (*(made := _contrast_inputs(*made_for))[:3], made[4]),
    ),
    Case(
        "contrastive_loss_siglip",
        lambda x, y, scale, bias, ids: vk.contrastive_loss(x, y, scale, bias, "siglip", y_ids=ids),
        _contrast_inputs,
    ),
    Case(
        "tube_mask_gather",
        lambda clip, i: vk.tube_mask_gather(clip, i, PATCH, layout="BTHWC", normalize=MEAN_STD),
        lambda batch, dtype, device: (
            _clip(batch, dtype, device),
            make_index(batch, KEPT, TOKENS, device=device),
        ),
    ),
    Case(
        "embed_tokens",
        lambda clip, i, w, b, p: vk.embed_tokens(clip, i, w, b, p, layout="BTHWC", normalize=MEAN_STD),
        _embed_inputs,
    ),
    Case("masked_patch_loss", lambda p, c, i: vk.masked_patch_loss(p, c, i, PATCH, layout="BTHWC"), _loss_inputs),
    Case("masked_patch_loss_weighted", _weighted_loss, _loss_inputs),
    Case(
        "patch_targets",
        lambda clip, i: vk.patch_targets(clip, i, PATCH, layout="BTHWC"),
        lambda batch, dtype, device: _loss_inputs(batch, dtype, device)[1:],
        differentiable=False,
    ),
    Case("crop_clips", _rows_and_targets, _cropped_inputs, differentiable=False),
    Case(
        "crop_clips_loss",
        lambda p, *clips_and_index: vk.masked_patch_loss(
            p, _cropped(*clips_and_index[:-1]), clips_and_index[-1], PATCH
        ),
        lambda batch, dtype, device: (
            _loss_inputs(batch, dtype, device)[0],
            *_cropped_inputs(batch, dtype, device),
        ),
    ),
    Case(
        "warp_clips",
        lambda *clips_and_matrix: vk.warp_clips(_cropped(*clips_and_matrix[:-1]), clips_and_matrix[-1], fill=90),
        _warp_inputs,
        differentiable=False,
    ),
    Case("tube_mask_index", lambda s: vk.tube_mask_index(s, GRID, 0.75, seed=1), _samples, differentiable=False),
    Case(
        "random_mask_index",
        lambda s: vk.random_mask_index(s, TOKENS, 0.9, seed=1, stream=2),
        _samples,
        differentiable=False,
    ),
    Case(
        "weighted_mask_index",
        lambda weights, s: vk.weighted_mask_index(weights, KEPT, s, seed=1, stream=2),
        _weighted_samples,
        differentiable=False,
    ),
    Case("mask_to_index", lambda mask: vk.mask_to_index(mask, KEPT), _mask_inputs, differentiable=False),
    Case(
        "changed_token_index",
        lambda clip: vk.changed_token_index(clip, TOKENS // 2, PATCH, layout="BTHWC"),
        lambda batch, dtype, device: (_clip(batch, torch.float64 if dtype == torch.float64 else torch.uint8, device),),
        differentiable=False,
    ),
    Case("changed_token_index_crops", _changed_of_few, _few_cropped_inputs, differentiable=False),
    Case(
        "running_cell_select",
        lambda v, phase: vk.running_cell_select(v, phase, GRID, 0.5),
        _select_inputs,
        differentiable=False,
    ),
)
DIFFERENTIABLE = tuple(case for case in CASES if case.differentiable)
