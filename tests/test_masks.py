"""Mask plans: counts, order, purity, and the published running cell."""

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.baselines.published.masks import running_cell_mask
from videomae_fast import MaskPlan, guided_masks, make_masks
from videomae_kernels import weighted_mask_index

Grid = tuple[int, int, int]

# grid, decoder ratio (0: no decoder mask), tokens, visible, decoded, decoded and visible; encoder ratio 0.9
COUNTS = [
    ((8, 14, 14), 0, 1568, 160, 1408, 0),
    ((8, 14, 14), 0.25, 1568, 160, 1176, 120),
    ((8, 14, 14), 0.5, 1568, 160, 784, 80),
    ((8, 14, 14), 0.75, 1568, 160, 392, 40),
    ((8, 16, 16), 0.5, 2048, 208, 1024, 104),
    ((8, 16, 16), 0.25, 2048, 208, 1536, 156),
    ((8, 16, 16), 0.75, 2048, 208, 512, 52),
    ((16, 14, 14), 0.5, 3136, 320, 1568, 160),
]
COMBINATIONS = list(itertools.product(("tube", "random"), ("running_cell", "random", "none")))
GRIDS: list[Grid] = [(4, 4, 6), (8, 5, 7), (6, 4, 4), (5, 3, 5), (1, 6, 6)]


def seen_by_encoder(plan: MaskPlan) -> Tensor:
    """(B, M) bool: whether each decoded token is visible."""
    return (plan.decoded[:, :, None] == plan.visible[:, None, :]).any(2)


def assert_well_formed(plan: MaskPlan) -> None:
    """Tokens of the grid, each once; visible ascending; overlap rows first, then the loss rows, each ascending."""
    batch = plan.visible.shape[0]
    for index in (plan.visible, plan.decoded):
        assert index.dtype == torch.int64 and index.shape[0] == batch
        assert index.min() >= 0 and index.max() < plan.num_tokens
    assert (plan.visible.diff(dim=1) > 0).all()
    seen = seen_by_encoder(plan)
    overlap = plan.num_overlap
    overlap = torch.full((batch,), overlap) if isinstance(overlap, int) else overlap
    assert overlap.dtype == torch.int64 and torch.equal(seen.sum(1), overlap)
    for row, count in zip(plan.decoded, overlap.tolist(), strict=True):
        assert (row[:count].diff() > 0).all() and (row[count:].diff() > 0).all()
    assert (seen.to(torch.int8).diff(dim=1) <= 0).all()


@pytest.mark.parametrize("grid, ratio, tokens, visible, decoded, overlap", COUNTS)
def test_counts(grid: Grid, ratio: float, tokens: int, visible: int, decoded: int, overlap: int) -> None:
    masks = dict(decoder_mask_ratio=ratio) if ratio else dict(decoder_mask="none")
    plan = make_masks(torch.arange(12), grid, **masks)
    assert_well_formed(plan)
    assert plan.num_tokens == tokens
    assert plan.visible.shape == (12, visible) and plan.decoded.shape == (12, decoded)
    assert isinstance(plan.num_overlap, int) and plan.num_overlap == overlap
    assert plan.predicted.shape == (12, decoded - overlap) and plan.loss_weight is None
    assert torch.equal(plan.predicted, plan.decoded[:, overlap:])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("encoder, decoder", COMBINATIONS)
def test_every_combination(grid: Grid, encoder: str, decoder: str) -> None:
    plan = make_masks(torch.arange(40, 72), grid, mask=encoder, decoder_mask=decoder, mask_ratio=0.7, seed=5)
    assert_well_formed(plan)
    frames, height, width = grid
    if encoder == "tube":
        assert plan.visible.shape[1] == frames * (height * width - int(0.7 * height * width))
        first = plan.visible[:, : plan.visible.shape[1] // frames]
        tube = first[:, None, :] + height * width * torch.arange(frames)[:, None]
        assert torch.equal(plan.visible, tube.flatten(1))
    else:
        assert plan.visible.shape[1] == plan.num_tokens - int(0.7 * plan.num_tokens)
    fixed = decoder == "none" or (decoder == "running_cell" and encoder == "tube" and frames % 4 == 0)
    assert isinstance(plan.num_overlap, int) == fixed
    if fixed:
        assert plan.loss_weight is None and not seen_by_encoder(plan)[:, plan.num_overlap :].any()
    else:
        assert torch.equal(plan.predicted, plan.decoded)
        assert plan.loss_weight is not None and plan.loss_weight.dtype == torch.float32
        assert torch.equal(plan.loss_weight, (~seen_by_encoder(plan)).float())


def test_without_a_decoder_mask_all_that_is_hidden_is_decoded() -> None:
    plan = make_masks(torch.arange(3), (4, 4, 4), decoder_mask="none", mask_ratio=0.75)
    assert torch.equal(plan.decoded.sort(1).values, plan.decoded)
    union = torch.cat([plan.visible, plan.decoded], 1).sort(1).values
    assert torch.equal(union, torch.arange(64).expand(3, -1))


@pytest.mark.parametrize("grid", [(8, 4, 4), (6, 5, 3)], ids=str)
@pytest.mark.parametrize("encoder, decoder", COMBINATIONS)
def test_pure_function_of_seed_and_sample(grid: Grid, encoder: str, decoder: str) -> None:
    sample = torch.arange(10) * 7919 + 2**33

    def rows(sample: Tensor, seed: int = 3) -> list[Tensor]:
        plan = make_masks(sample, grid, mask=encoder, decoder_mask=decoder, mask_ratio=0.6, seed=seed)
        overlap = plan.num_overlap
        return [
            plan.visible,
            plan.decoded,
            overlap if isinstance(overlap, Tensor) else torch.full_like(sample, overlap),
        ]

    whole = rows(sample)
    order = torch.tensor([3, 9, 0, 1, 8, 2, 7, 5, 4, 6])
    for part in (order[:3], order[3:], order[4:5], torch.tensor([2, 2])):
        for alone, together in zip(rows(sample[part]), whole, strict=True):
            assert torch.equal(alone, together[part])
    assert not torch.equal(rows(sample, seed=4)[0], whole[0])
    assert len({tuple(row) for row in whole[0].tolist()}) > 8  # samples differ


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_running_cell_is_the_published_one_at_four_equally_likely_phases(ratio: float) -> None:
    grid = (8, 4, 6)
    plan = make_masks(torch.arange(800), grid, decoder_mask_ratio=ratio, mask_ratio=0.7, seed=11)
    decoded = plan.decoded.sort(dim=1).values
    counts = []
    for phase in range(4):
        published = torch.from_numpy(~running_cell_mask(grid, ratio, phase)).nonzero()[:, 0]
        counts.append(int((decoded == published).all(dim=1).sum()))
    assert sum(counts) == 800
    assert all(abs(count - 200) < 60 for count in counts)  # five standard deviations of 800 draws


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("grid", [(8, 5, 7), (4, 3, 4), (6, 5, 4), (7, 3, 3)], ids=str)
def test_odd_grids_crop_the_last_cells(grid: Grid, ratio: float) -> None:
    """The published map of the next even grid, cropped; cut to a common count where T' % 4 != 0."""
    frames, height, width = grid
    even = (frames, height + height % 2, width + width % 2)
    allowed = []
    for phase in range(4):
        cropped = torch.from_numpy(~running_cell_mask(even, ratio, phase)).view(even)[:, :height, :width]
        allowed.append(cropped.flatten().nonzero()[:, 0])
    count = min(len(tokens) for tokens in allowed)
    plan = make_masks(torch.arange(64), grid, decoder_mask_ratio=ratio, mask_ratio=0.6)
    assert plan.decoded.shape[1] == count
    if frames % 4 == 0:
        assert all(len(tokens) == count for tokens in allowed)
    expected = {tuple(tokens[:count].tolist()) for tokens in allowed}
    assert {tuple(row) for row in plan.decoded.sort(1).values.tolist()} == expected


def test_choices_are_independent() -> None:
    """The encoder's mask does not depend on the decoder's; equal ratios do not make equal sets; nor does the phase."""
    sample, grid = torch.arange(400), (4, 4, 4)
    both = make_masks(sample, grid, mask="random", mask_ratio=0.5, decoder_mask="random")
    other = make_masks(sample, grid, mask="random", mask_ratio=0.5)
    assert torch.equal(both.visible, other.visible)
    share = seen_by_encoder(both).float().mean(1)
    assert abs(share.mean() - 0.5) < 0.02 and share.max() < 0.9 and share.min() > 0.1
    # One visible position of four, one phase of four: all sixteen pairs occur.
    plan = make_masks(sample, (4, 2, 2), mask_ratio=0.75)
    pairs = {(int(v[0]), *sorted(d.tolist())) for v, d in zip(plan.visible, plan.decoded, strict=True)}
    assert len(pairs) == 16


def test_plan_is_frozen_and_moves_whole() -> None:
    for frames in (4, 6):
        plan = make_masks(torch.arange(2), (frames, 4, 4))
        with pytest.raises(dataclasses.FrozenInstanceError):
            plan.num_overlap = 3  # type: ignore[misc]
        moved = plan.to("meta")
        assert moved.visible.device.type == moved.decoded.device.type == "meta"
        if isinstance(plan.num_overlap, Tensor):
            assert isinstance(moved.num_overlap, Tensor) and moved.num_overlap.device.type == "meta"
        else:
            assert moved.num_overlap == plan.num_overlap
        assert moved.grid == plan.grid and moved.predicted.shape == plan.predicted.shape
        assert plan.visible.device.type == "cpu"


@pytest.mark.parametrize("frames", [4, 6])
@pytest.mark.parametrize("parts, sizes", [(1, [5]), (3, [2, 2, 1]), (5, [1] * 5), ([1, 4], [1, 4])])
def test_split(frames: int, parts: int | list[int], sizes: list[int]) -> None:
    """Parts have the rows of the whole, and their shares of the loss rows add up to 1."""
    plan = make_masks(torch.arange(5), (frames, 4, 4), mask_ratio=0.7)
    cut = plan.split(parts)
    assert [len(part.visible) for part in cut] == sizes
    for name in ("visible", "decoded"):
        assert torch.equal(torch.cat([getattr(part, name) for part in cut]), getattr(plan, name))
    rows = [float((~seen_by_encoder(part)).sum()) for part in cut]
    assert [float(part.share) for part in cut] == pytest.approx([count / sum(rows) for count in rows], rel=1e-12)
    if frames == 6:
        overlaps = [part.num_overlap for part in cut]
        assert isinstance(plan.num_overlap, Tensor) and torch.equal(torch.cat(overlaps), plan.num_overlap)
        assert len(set(rows)) > 1 or len(sizes) == 1
    else:
        assert all(part.num_overlap == plan.num_overlap for part in cut)


def test_parts_can_be_split_and_moved() -> None:
    for frames in (4, 6):
        plan = make_masks(torch.arange(6), (frames, 4, 4), mask_ratio=0.7)
        direct = [float(part.share) for part in plan.split([1, 2, 3])]
        first, rest = plan.split([1, 5])
        assert [float(part.share) for part in (first, *rest.split([2, 3]))] == pytest.approx(direct, rel=1e-12)
        assert isinstance(rest.to("meta").share, Tensor) == (frames == 6)


class TestGuidedMasks:
    GRID = (3, 4, 5)

    def test_masks_are_those_of_the_op(self) -> None:
        """Mask m of sample s has the number s · M + m, and its clip's weights."""
        weights, sample = torch.rand(2, *self.GRID), torch.tensor([7, 3])
        for per, groups in (("frame", 3), ("clip", 1)):
            masks = guided_masks(weights, 0.8, sample, per=per, masks_per_clip=4, seed=5)
            size = 60 // groups
            assert masks.shape == (8, groups * (size - int(0.8 * size)))
            for b, number in enumerate((7, 3)):
                for m in range(4):
                    of_clip = weights[b].reshape(1, groups, size)
                    one = weighted_mask_index(of_clip, size - int(0.8 * size), torch.tensor([4 * number + m]), seed=5)
                    assert torch.equal(masks[4 * b + m], one[0])
        assert len({tuple(mask) for mask in masks.tolist()}) == 8

    def test_published_counts(self) -> None:
        """Of 8 frames of 16 x 16 tokens, 52 of each frame in stage 1, and 410 of each clip in distillation."""
        equal = torch.ones(()).expand(2, 8, 16, 16)
        masks = guided_masks(equal, 0.8, torch.arange(2), seed=0)
        assert masks.shape == (2, 416)
        assert torch.equal((masks // 256).view(2, 8, 52), torch.arange(8)[:, None].expand(2, 8, 52))
        assert guided_masks(equal, 0.8, torch.arange(2), per="clip", seed=0).shape == (2, 410)

    def test_tokens_of_large_weight_are_seen_more_often(self) -> None:
        weights = torch.ones(500, *self.GRID)
        weights[:, 1, 2] = 20
        masks = guided_masks(weights, 0.75, torch.arange(500), seed=0)
        share = torch.zeros(500, 60).scatter_(1, masks, 1).mean(0).view(self.GRID)
        assert (share[1, 2] > 0.6).all() and (share[1, :2] < 0.2).all()
        assert (share[0] - 0.25).abs().max() < 0.1

    @pytest.mark.parametrize(
        "change, message",
        [
            (dict(per="video"), "per must be one of"),
            (dict(ratio=1.0), r"ratio must be in \[0, 1\)"),
            (dict(ratio=float("nan")), "ratio must be in"),
            (dict(masks_per_clip=0), "masks_per_clip must be at least 1"),
            (dict(weights=torch.ones(2, 3, 20)), r"weights must have shape \(B, T', H', W'\)"),
            (dict(sample=torch.arange(3)), "weights must have shape"),
            (dict(weights=torch.zeros(2, 3, 4, 5)), "keep is larger than what has weight"),
            (dict(weights=torch.full((2, 3, 4, 5), torch.nan)), "weights must be finite"),
            (dict(seed=-1), "seed must be"),
        ],
        ids=str,
    )
    def test_bad_arguments_are_named(self, change: dict[str, Any], message: str) -> None:
        good = dict(weights=torch.ones(2, *self.GRID), ratio=0.8, sample=torch.arange(2), seed=0)
        with pytest.raises(ValueError, match=message):
            guided_masks(**(good | change))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"masks_per_clip": 1.5}, r"masks_per_clip must be an integer, got 1\.5"),
        ({"masks_per_clip": True}, "masks_per_clip must be an integer, got True"),
        ({"sample": torch.arange(2, dtype=torch.int32)}, r"sample must be an int64 vector.*torch\.int32 \(2,\)"),
        ({"sample": torch.zeros(2, 1, dtype=torch.int64)}, r"sample must be an int64 vector.*\(2, 1\)"),
    ],
)
def test_arguments_of_guided_masks_are_named(changes: dict[str, Any], message: str) -> None:
    given = {"sample": torch.arange(2), "masks_per_clip": 2} | changes
    with pytest.raises(TypeError, match=message):
        guided_masks(torch.ones(2, 1, 2, 2), 0.5, seed=0, **given)
