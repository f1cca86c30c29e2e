"""Augmentation of clips for fine-tuning: what a worker cuts, and what the device makes of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

import videomae_kernels
from videomae_kernels import CroppedClips, crop_clips

from ..crops import Crop, CropBox, crop_resize, cut_clips
from ..seeding import ERASING, RAND_AUGMENT, augmentation_rng
from .color import apply_color
from .erasing import draw_erasing, erase
from .geometry import MOST_AREA, warped_clips
from .normalize import normalize, normalized_clips
from .pillow import pillow_frames
from .policy import FILL, RandAugmentDraw, parse_rand_augment

BACKENDS = ("device", "pillow")


def clean_clips(clips: CroppedClips, matrix: Tensor | None = None) -> CroppedClips | Tensor:
    """The clips of a batch as they are cut: geometry alone, before the device changes colours, erases or mixes.

    Args:
        clips: of `ClipAugmentation.cut`, joined and moved.
        matrix: (B, 2, 3) of `cut`, on the device of the clips; None without RandAugment on the device.

    Returns:
        `clips` without a matrix; what RandAugment did in the workers ("pillow") is in them. With one, (B, 3, T, H, W)
        float32 in [0, 255] of `warp_clips`, which `ClipAugmentation` starts from, too.
    """
    return clips if matrix is None else videomae_kernels.warp_clips(clips, matrix, fill=FILL)


class ClipAugmentation:
    """RandAugment and random erasing of clips.

    The worker calls `cut` on the decoded frames, the training step calls the augmentation itself on the batch. All
    draws are functions of (seed, sample number) alone, for any number of ranks and workers and any batch size.

    With the backend "device", rotation, shear and translation are composed with crop, resize and flip into one
    bilinear resampling, which comes first; the colour ops follow in their drawn order. So colour statistics are of the
    clip, not of the whole frame, fill is recoloured like the rest, and frames are resampled once, not once per op.
    With "pillow", the worker applies the same draws to whole frames before the crop: the published pixels, at about
    the published cost. A crop of more than 2·H·W pixels is resized in the worker and rounded to uint8.

    Args:
        rand_augment: policy such as "rand-m7-n4-mstd0.5-inc1"; "" for none.
        erasing: probability that a clip is erased.
        seed: of the run, in [0, 2**64).
        backend: "device" or "pillow", of RandAugment.
        mean: of each channel, for pixels in [0, 1].
        std: of each channel.

    Raises:
        ValueError: the policy has another form, the backend is unknown, or a number is out of range.

    References:
        `_aug_frame` of VideoMAE V2, dataset/datasets.py.
    """

    def __init__(
        self,
        rand_augment: str = "",
        erasing: float = 0.0,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int = 0,
        backend: str = "device",
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
        if not 0 <= erasing <= 1:
            raise ValueError(f"erasing must be a probability in [0, 1], got {erasing}")
        augmentation_rng(seed, 0, RAND_AUGMENT)  # raises for a seed out of range here, not in a worker
        self.policy = parse_rand_augment(rand_augment) if rand_augment else None
        self.erasing, self.seed, self.backend = erasing, seed, backend
        self.mean, self.std = tuple(mean), tuple(std)

    @property
    def needs_tensor(self) -> bool:
        """Whether the device changes pixels. If not, and nothing mixes clips, a model can take `CroppedClips`."""
        return self._on_device or self.erasing > 0

    @property
    def _on_device(self) -> bool:
        return self.policy is not None and self.backend == "device"

    def draw(self, sample: int) -> RandAugmentDraw:
        """The RandAugment ops of a clip.

        Args:
            sample: sample number of the clip.

        Returns:
            The ops; none without a policy.
        """
        if self.policy is None:
            return ()
        return self.policy.draw(augmentation_rng(self.seed, sample, RAND_AUGMENT))

    def cut(
        self,
        frames: Tensor,
        crops: Sequence[Crop],
        sample: Sequence[int],
        size: tuple[int, int],
        resize: str = "bilinear",
    ) -> tuple[CroppedClips, Tensor | None]:
        """Cut the clips of one video, in the worker.

        Args:
            frames: uint8 (T, height, width, 3), on the CPU.
            crops: R crops.
            sample: sample number of each crop.
            size: (H, W) of the clips, in pixels.
            resize: as in `CroppedClips`; the published one is "bilinear". With RandAugment on the device, the
                resampling is bilinear, and this is for regions of very large frames only.

        Returns:
            R clips, and their matrices (R, 2, 3) float32 for the device; None where it needs none.

        Raises:
            ValueError: a box is not inside the frames, or there are not as many sample numbers as crops.
            TypeError: `frames` are not uint8.
            ImportError: the backend is "pillow", and Pillow is missing.
        """
        if len(sample) != len(crops):
            raise ValueError(f"sample must have one number for each of {len(crops)} crops, got {len(sample)}")
        if self.policy is None:
            return cut_clips(frames, crops, size, resize), None
        draws = [self.draw(number) for number in sample]
        if self._on_device:
            return warped_clips(frames, crops, draws, size, resize)
        sources, boxes = [], []
        for crop, draw in zip(crops, draws, strict=True):
            shown, box = pillow_frames(frames, draw), crop.box
            if box.height * box.width > MOST_AREA * size[0] * size[1]:
                shown, box = crop_resize(shown, box, size, resize), CropBox(0, 0, *size)
            sources.append(shown)
            boxes.append(box)
        flipped = [crop.flipped for crop in crops]
        return crop_clips(sources, range(len(sources)), boxes, flipped, size, resize), None

    def __call__(
        self, clips: CroppedClips, sample: Tensor, matrix: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Make the augmented, normalised clips of a batch, on the device of `clips`.

        Args:
            clips: of `cut`, joined and moved.
            sample: (B,) int64 sample numbers, on the host.
            matrix: (B, 2, 3) of `cut`, on the device of the clips.
            dtype: floating dtype of the result.

        Returns:
            (B, 3, T, H, W) contiguous, (pixel / 255 − mean) / std, as a model takes floating clips.

        Raises:
            ValueError: `sample` is not on the host or has another length, or `matrix` is there where RandAugment is
                not on the device, or the reverse.
        """
        if sample.device.type != "cpu":
            raise ValueError(f"sample must be on the host, which draws, got a tensor on {sample.device}")
        if len(sample) != clips.shape[0]:
            raise ValueError(f"sample must have one number for each of {clips.shape[0]} clips, got {len(sample)}")
        if (matrix is not None) != self._on_device:
            has = "has none" if matrix is None else f"is {tuple(matrix.shape)}"
            raise ValueError(f"matrix goes with RandAugment on the device, which is {self._on_device}; it {has}")
        numbers = [int(number) for number in sample.tolist()]
        if matrix is None:
            values = normalized_clips(clips, self.mean, self.std, dtype)
        else:
            pixels = videomae_kernels.warp_clips(clips, matrix, fill=FILL)
            apply_color(pixels, [self.draw(number) for number in numbers])
            values = normalize(pixels, self.mean, self.std, dtype)
        if self.erasing:
            size = clips.size
            rngs = (augmentation_rng(self.seed, number, ERASING) for number in numbers)
            erase(values, [draw_erasing(size, self.erasing, rng) for rng in rngs])
        return values
