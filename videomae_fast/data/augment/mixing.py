"""Mixup, CutMix and label smoothing on a batch: clips become mixtures of two, and labels soft targets."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..crops import CropBox
from ..seeding import MIXING, augmentation_rng
from .upload import upload


class MixDraw(NamedTuple):
    """How the clips of a batch are mixed with their partners.

    Attributes:
        share: λ, the share of a clip itself in its target.
        box: of the partner's pixels (CutMix), the same in all clips; None for Mixup.
    """

    share: float
    box: CropBox | None = None


def smooth_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Soft targets of labels.

        target[b, c] = smoothing / C + (1 − smoothing)·[c = labels[b]]

    Args:
        labels: (B,) int64 class numbers in [0, C). Values are checked on a CPU; on a GPU the host would have to wait.
        classes: C.
        smoothing: in [0, 1).

    Returns:
        (B, C) float32 on the device of the labels.

    Raises:
        ValueError: a label, `classes` or `smoothing` is out of range.
        TypeError: `labels` is no int64 vector.

    References:
        `one_hot` and `mixup_target` of timm, data/mixup.py; Szegedy et al., Rethinking the Inception architecture,
        CVPR 2016.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise TypeError(f"labels must be an int64 vector, got {labels.dtype} {tuple(labels.shape)}")
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    if labels.device.type == "cpu" and len(labels):
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"labels must be in [0, {classes}), got values from {low} to {high}")
    rest = smoothing / classes
    targets = torch.full((len(labels), classes), rest, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + rest)


def mixing_partners(videos: int, crops_per_video: int = 1) -> list[int]:
    """The clip that each clip of a batch is mixed with: the batch in reverse, but never another crop of its own video.

    The clips of a video are consecutive. In the reverse order, the middle one of an odd number of videos meets itself.
    The published code mixes it so; here its clips meet those of the video before it. A lone video has no partner.

    Args:
        videos: number of videos in the batch.
        crops_per_video: clips of each.

    Returns:
        The number of each clip's partner; its own if there is one video only.
    """
    clips = videos * crops_per_video
    if videos == 1:
        return list(range(clips))
    partners = list(range(clips - 1, -1, -1))
    if videos % 2:
        first = videos // 2 * crops_per_video
        partners[first : first + crops_per_video] = range(first - crops_per_video, first)
    return partners


def mix(clips: Tensor, targets: Tensor, draw: MixDraw, partners: list[int]) -> tuple[Tensor, Tensor]:
    """Mix every clip with its partner, as one draw says for the whole batch.

        clip[b] = λ·clip[b] + (1 − λ)·clip[p_b], or clip[p_b] inside the box and clip[b] outside of it
        target[b] = λ·target[b] + (1 − λ)·target[p_b]

    Args:
        clips: (B, C, T, H, W) floating; overwritten.
        targets: (B, classes) float32.
        draw: λ and the box.
        partners: p, B numbers of clips.

    Returns:
        `clips`, and (B, classes) float32.

    Raises:
        ValueError: targets or partners are not as many as the clips.

    References:
        Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019.
    """
    if not len(clips) == len(targets) == len(partners):
        raise ValueError(
            f"targets and partners must be as many as the {len(clips)} clips, got {len(targets)} and {len(partners)}"
        )
    index = upload(torch.tensor(partners), clips.device)
    if draw.box is None:
        clips.lerp_(clips.index_select(0, index), 1 - draw.share)
    else:
        top, left, height, width = draw.box
        part = clips[..., top : top + height, left : left + width]
        part.copy_(part.index_select(0, index))
    return clips, targets.lerp(targets.index_select(0, index), 1 - draw.share)


class Mixer:
    """Mixup or CutMix, one draw for each batch, and label smoothing.

    With both alphas positive a batch is cut with probability `switch` and mixed else. λ is Beta(α, α). The box of
    CutMix has sides ⌊H·√(1 − λ)⌋ and ⌊W·√(1 − λ)⌋, halved towards zero on both sides of a centre that is uniform in
    the clip, and is clipped to it; λ then is the share of the area outside of it.

    A draw is a function of (seed, number of the first clip), so it depends on how samples form batches: other ranks
    and other batch sizes mix other clips. The published rule, one λ and one box for each batch, cannot do otherwise.

    Args:
        mixup: α of Mixup; 0 for none.
        cutmix: α of CutMix; 0 for none.
        probability: that a batch is mixed at all.
        switch: probability of CutMix where both are possible.
        smoothing: of labels, in [0, 1).
        classes: C.
        seed: of the run, in [0, 2**64).

    Raises:
        ValueError: a number is out of range.

    References:
        `Mixup(mode="batch")` of timm 0.4.12, data/mixup.py, which VideoMAE V2 trains with.
    """

    def __init__(
        self,
        *,
        classes: int,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        probability: float = 1.0,
        switch: float = 0.5,
        smoothing: float = 0.0,
        seed: int = 0,
    ) -> None:
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or a positive alpha, got {value}")
        for name, value in (("probability", probability), ("switch", switch)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}")
        smooth_targets(torch.zeros(0, dtype=torch.int64), classes, smoothing)  # raises for numbers out of range
        augmentation_rng(seed, 0, MIXING)
        self.classes, self.smoothing, self.seed = classes, smoothing, seed
        self.mixup, self.cutmix, self.probability, self.switch = mixup, cutmix, probability, switch

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed; without, only targets are made, and clips need not be tensors."""
        return (self.mixup > 0 or self.cutmix > 0) and self.probability > 0

    def draw(self, size: tuple[int, int], sample: int) -> MixDraw | None:
        """Draw how a batch is mixed.

        Args:
            size: (H, W) of the clips, in pixels.
            sample: sample number of the first clip.

        Returns:
            The draw; None if the batch is not mixed.

        Raises:
            ValueError: the sample number is negative.
        """
        rng = augmentation_rng(self.seed, sample, MIXING)
        if not self.mixes or rng.random() >= self.probability:
            return None
        cut = self.cutmix > 0 and (self.mixup == 0 or rng.random() < self.switch)
        alpha = self.cutmix if cut else self.mixup
        share = float(rng.beta(alpha, alpha))
        if not cut:
            return MixDraw(share)
        top, bottom = _span(size[0], share, rng)
        left, right = _span(size[1], share, rng)
        box = CropBox(top, left, bottom - top, right - left)
        return MixDraw(1 - box.height * box.width / (size[0] * size[1]), box)

    def __call__(
        self, clips: Tensor, labels: Tensor, sample: Tensor, crops_per_video: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            clips: (B, C, T, H, W) floating; overwritten.
            labels: (B,) int64 class numbers, on the device of the clips.
            sample: (B,) int64 sample numbers, on the host.
            crops_per_video: clips of each video, which are consecutive.

        Returns:
            `clips`, and soft targets (B, classes) float32.

        Raises:
            ValueError: a label is out of range, `sample` is not on the host, or the batch does not have whole videos.
            TypeError: `labels` is no int64 vector.
        """
        if sample.device.type != "cpu":
            raise ValueError(f"sample must be on the host, which draws, got a tensor on {sample.device}")
        if len(clips) % crops_per_video:
            raise ValueError(f"crops_per_video = {crops_per_video} does not divide the {len(clips)} clips")
        targets = smooth_targets(labels, self.classes, self.smoothing)
        videos = len(clips) // crops_per_video
        draw = self.draw((clips.shape[-2], clips.shape[-1]), int(sample[0]))
        if draw is None or videos < 2:
            return clips, targets
        return mix(clips, targets, draw, mixing_partners(videos, crops_per_video))


def _span(side: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    """First and last line (not included) of a CutMix box."""
    half = int(side * (1 - share) ** 0.5) // 2
    center = int(rng.integers(side))
    return max(0, center - half), min(side, center + half)
