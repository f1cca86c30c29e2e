"""Ops that make masks. The published code makes them in numpy, one clip at a time, and uploads them.

On a GPU only the upload counts for the published code, because its loader processes make the masks in parallel.
For changed_token_index, published is the code of run-length tokenization, on the device.
"""

import numpy as np
import torch
from torch import Tensor

import videomae_kernels as vk
from benchmarks.baselines import rewrites
from benchmarks.baselines.published.masks import running_cell_mask, tube_mask
from benchmarks.baselines.published.static_tokens import token_changes
from benchmarks.ops.clip import INDEX_BYTES, Pixels
from benchmarks.ops.workload import CLIPS, COMPILED, OURS, PUBLISHED, REWRITE, Op, OpCase, Variant, Workload

SEED = 0
SAME = 1e-6  # relative difference of scores that rounding can exchange


def _tube_mask_index(case: OpCase) -> Workload:
    grid, ratio, sample = case.inputs.config.grid, case.inputs.mask_ratio, case.inputs.sample
    area = grid[1] * grid[2]
    keep = area - int(ratio * area)
    random = np.random.default_rng(SEED)

    def published() -> Tensor:
        masks = np.stack([tube_mask(grid, ratio, random) for _ in range(len(sample))])
        return torch.from_numpy(masks).to(case.device)

    def check(found: Tensor) -> None:
        if found.dtype == torch.bool:  # the published form of the same
            found = (~found).nonzero()[:, 1].view(len(sample), -1)
        frames = found.view(len(sample), grid[0], keep) - area * torch.arange(grid[0], device=case.device)[:, None]
        assert torch.equal(frames, frames[:, :1].expand_as(frames)), "not the same positions in every frame"
        assert (frames.diff() > 0).all() and frames.min() >= 0 and frames.max() < area, "not ascending positions"

    return Workload(
        {
            PUBLISHED: Variant(published),
            REWRITE: Variant(lambda: rewrites.random_index(len(sample), area, keep, grid[0], case.device)),
            OURS: Variant(lambda: vk.tube_mask_index(sample, grid, ratio, seed=SEED)),
        },
        INDEX_BYTES * len(sample) * (grid[0] * keep + 1),
        check=check,
    )


def _random_mask_index(case: OpCase) -> Workload:
    number, ratio, sample = case.inputs.config.num_tokens, case.inputs.mask_ratio, case.inputs.sample
    keep = number - int(ratio * number)

    def check(found: Tensor) -> None:
        assert found.shape == (len(sample), keep)
        assert (found.diff() > 0).all() and found.min() >= 0 and found.max() < number, "not ascending positions"

    return Workload(
        {
            REWRITE: Variant(lambda: rewrites.random_index(len(sample), number, keep, 1, case.device)),
            OURS: Variant(lambda: vk.random_mask_index(sample, number, ratio, seed=SEED)),
        },
        INDEX_BYTES * len(sample) * (keep + 1),
        check=check,
    )


def _weighted_mask_index(case: OpCase) -> Workload:
    """Attention of each frame; published is a mask on the host, made of permutations of whole frames."""
    (frames, *sides), sample = case.inputs.config.grid, case.inputs.sample
    area = sides[0] * sides[1]
    keep = area - int(case.inputs.mask_ratio * area)
    weights = torch.rand(len(sample), frames, area, device=case.device)

    def published() -> Tensor:
        drawn = torch.multinomial(weights.flatten(0, 1), area)[:, :keep].cpu()
        hidden = torch.ones(len(drawn), area, dtype=torch.bool).scatter_(1, drawn, False)
        return (~hidden.view(len(sample), -1)).nonzero()[:, 1].view(len(sample), -1).to(case.device)

    def check(found: Tensor) -> None:
        positions = found.view(len(sample), frames, keep) - area * torch.arange(frames, device=case.device)[:, None]
        assert (positions.diff() > 0).all() and positions.min() >= 0 and positions.max() < area

    return Workload(
        {
            PUBLISHED: Variant(published),
            REWRITE: Variant(lambda: rewrites.weighted_index(weights, keep)),
            OURS: Variant(lambda: vk.weighted_mask_index(weights, keep, sample, seed=SEED)),
        },
        weights.nbytes + INDEX_BYTES * len(sample) * (frames * keep + 1),
        check=check,
    )


def _mask_to_index(case: OpCase) -> Workload:
    visible, mask = case.inputs.plan().visible, ~case.inputs.hidden
    batch, count = visible.shape
    return Workload(
        {
            PUBLISHED: Variant(lambda: mask.nonzero()[:, 1].view(batch, count)),
            REWRITE: Variant(lambda: rewrites.mask_to_index(mask, count)),
            OURS: Variant(lambda: vk.mask_to_index(mask, count)),
        },
        mask.nbytes + INDEX_BYTES * visible.numel(),
        Variant(lambda: visible),
    )


def _running_cell_select(case: OpCase) -> Workload:
    plan, grid, ratio = case.inputs.plan(), case.inputs.config.grid, case.inputs.decoder_mask_ratio
    visible, (batch, count) = plan.visible, plan.decoded.shape
    phase = torch.arange(batch, device=case.device) % 4
    phases = phase.tolist()

    def published() -> Tensor:
        masks = np.stack([running_cell_mask(grid, ratio, start) for start in phases])
        return torch.from_numpy(masks).to(case.device)

    def in_our_order(found: Tensor) -> Tensor:
        if found.dtype != torch.bool:
            return found
        decoded = (~found).nonzero()[:, 1].view(batch, count)
        seen = torch.zeros_like(found).scatter(1, visible, True).gather(1, decoded)
        return decoded.gather(1, seen.to(torch.uint8).argsort(dim=1, descending=True, stable=True))

    return Workload(
        {
            PUBLISHED: Variant(published, comparable=in_our_order),
            REWRITE: Variant(lambda: rewrites.running_cell_select(visible, phase, grid, int(4 * ratio), count)),
            OURS: Variant(lambda: vk.running_cell_select(visible, phase, grid, ratio)[0]),
        },
        INDEX_BYTES * (visible.numel() + batch * (count + 2)),
        Variant(published, comparable=in_our_order),
    )


def _changed_token_index(case: OpCase) -> Workload:
    """Half of the tokens, of clips whose pixels all change."""
    pixels, config = Pixels(case, targets=False), case.inputs.config
    clip, patch, count = pixels.clip, config.patch, config.num_tokens // 2
    view = pixels.view()

    def published() -> Tensor:
        changes = token_changes(view, patch)
        return changes.argsort(dim=1, descending=True, stable=True)[:, :count].sort(dim=1).values

    changes = token_changes(view.double(), patch)

    def check(found: Tensor) -> None:
        assert (found.diff() > 0).all() and found.shape == (len(view), count)
        kept = torch.zeros_like(changes, dtype=torch.bool).scatter(1, found, True)
        least, most = changes.where(kept, torch.inf).amin(1), changes.where(~kept, 0).amax(1)
        assert (least >= most * (1 - SAME)).all(), "a token that changes more is left out"

    compared = 2 * (config.num_tokens - config.num_tokens // config.grid[0])  # pieces of one frame
    values = len(view) * compared * config.patch_dim // config.patch[0]
    return Workload(
        {
            PUBLISHED: Variant(published),
            REWRITE: Variant(lambda: rewrites.changed_token_index(view, count, patch)),
            OURS: Variant(lambda: vk.changed_token_index(clip, count, patch, layout=pixels.layout)),
        },
        values * view.element_size() + INDEX_BYTES * len(view) * count,
        check=check,
    )


MASK_OPS = (
    Op("tube_mask_index", _tube_mask_index, floating=False),
    Op("random_mask_index", _random_mask_index, floating=False, variants=(REWRITE, COMPILED, OURS)),
    Op("weighted_mask_index", _weighted_mask_index, floating=False),
    Op("mask_to_index", _mask_to_index, floating=False),
    Op("running_cell_select", _running_cell_select, floating=False),
    Op("changed_token_index", _changed_token_index, clips=CLIPS, floating=False),
)
