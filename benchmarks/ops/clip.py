"""The clip of a benchmark case, in the form that our ops and the rewrites take it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import PIL.Image
import torch
from torch import Tensor

import videomae_kernels as vk
from benchmarks.baselines import rewrites
from benchmarks.baselines.rewrites import Affine
from benchmarks.ops.workload import CROPS, OpCase
from videomae_fast.data import CropBox
from videomae_fast.models import VideoMAEConfig

INDEX_BYTES = 8
# F.interpolate in float32 knows to some 1e-5 of a pixel where among hundreds a sample lies; ours knows it exactly, but
# for warp_clips, which computes it from a matrix on the device.
SAMPLING_ERROR = 2e-4


@dataclass(frozen=True)
class Pixels:
    """The clip of a case as our ops and the rewrites take it, and the scale and shift of its pixels."""

    case: OpCase
    targets: bool  # whether values in [0, 1] are wanted, or normalised ones

    @cached_property
    def clip(self) -> Tensor | vk.CroppedClips:
        return self.case.inputs.cropped_clips(self._resize) if self.is_cropped else self._whole

    @cached_property
    def view(self) -> Callable[[], Tensor]:
        """Returns the clip as (B, C, T, H, W); crops are resized in every call, as in our ops."""
        if self.is_cropped:
            return partial(rewrites.resize_crops, self.case.inputs.crops, self._size, self._resize)
        view = self._whole.permute(0, 4, 1, 2, 3) if self.is_uint8 else self._whole
        return lambda: view

    @cached_property
    def exact(self) -> Tensor:
        """The clip (B, C, T, H, W) for the truth: crops are resized in float64, or by Pillow itself."""
        if not self.is_cropped:
            return self.view()
        if self._resize != "pillow":
            return rewrites.resize_crops(self.case.inputs.crops, self._size, self._resize, torch.float64)
        clips = [[_pillow(frame.cpu().numpy(), self._size) for frame in crop] for crop in self.case.inputs.crops]
        return torch.from_numpy(np.array(clips)).to(self.case.device, torch.float64).permute(0, 4, 1, 2, 3)

    def check_integers(self, index: Tensor) -> None:
        """For resize "pillow": AssertionError if our op or the rewrite differs from Pillow, which bf16 would hide."""
        if self.case.clip != "crops pillow":
            return
        patch = self.case.inputs.config.patch
        ours = vk.tube_mask_gather(self.clip, index, patch).mul(255).round().double()
        assert torch.equal(ours, rewrites.gather_pixels(self.exact, index, patch).flatten(2)), "not Pillow's integers"
        assert torch.equal(self.view().double(), self.exact), "the rewrite's are not Pillow's integers"

    @property
    def is_cropped(self) -> bool:
        return self.case.clip in CROPS

    @property
    def is_uint8(self) -> bool:
        """Whether pixels are integers in [0, 255], or were before resizing."""
        return not self.case.clip.startswith("float")

    @property
    def layout(self) -> str:
        """Of the clip; crops have none."""
        return "BCTHW" if self.is_cropped else self.case.clip.split()[1]

    @property
    def stats(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std) for our ops: the statistics to normalise by, or by which the clip is normalised already."""
        config = self.case.inputs.config
        return None if self.is_uint8 == self.targets else (config.pixel_mean, config.pixel_std)

    @property
    def inexact(self) -> float:
        """The error that rewrites may have beyond rounding, relative to the largest result."""
        return SAMPLING_ERROR if self.is_cropped and self._resize != "pillow" else 0.0

    def affine(self, dtype: torch.dtype = torch.float32) -> Affine | None:
        """The same as `stats` for the rewrites; None if the clip holds the values that are wanted."""
        if self.stats is None and not self.is_uint8:
            return None
        unit = 1 / 255 if self.is_uint8 else 1.0
        mean, std = (torch.tensor(x, dtype=torch.float64) for x in self.stats or ((0.0,) * 3, (1.0,) * 3))
        scale, shift = (std * unit, mean) if self.targets else (unit / std, -mean / std)
        return tuple(x.to(self.case.device, dtype).view(-1, 1, 1, 1) for x in (scale, shift))  # type: ignore

    def bytes(self, index: Tensor) -> int:
        """Bytes of the listed tokens' pixels and of the index.

        For crops: every source pixel that a listed token of a clip is made from, counted once per clip. Neighbouring
        tokens share pixels; clips of the same source do not.
        """
        config = self.case.inputs.config
        if self.is_cropped:
            antialias = self._resize != "bilinear"
            return crop_bytes(config, self.case.inputs.boxes, index, antialias) + index.numel() * INDEX_BYTES
        return index.numel() * (config.patch_dim * self._whole.element_size() + INDEX_BYTES)

    @property
    def _whole(self) -> Tensor:
        return self.case.inputs.frames if self.is_uint8 else self.case.inputs.clip

    @property
    def _resize(self) -> str:
        return self.case.clip.split()[1]

    @property
    def _size(self) -> tuple[int, int]:
        return self.case.inputs.config.image_size


def crop_bytes(config: VideoMAEConfig, boxes: Sequence[CropBox], index: Tensor, antialias: bool = True) -> int:
    """Bytes of the source pixels that the listed tokens (B, K) are made from, once per clip; one box for each clip."""
    area = sum(_touched(config, box, listed, antialias) for box, listed in zip(boxes, index, strict=True))
    return area * config.patch[0] * config.in_channels


def _touched(config: VideoMAEConfig, box: CropBox, index: Tensor, antialias: bool) -> int:
    """Pixels of a box that the listed tokens (K,) are made from, one frame for each row of tokens in time."""
    listed = torch.zeros(config.num_tokens).index_fill_(0, index.cpu(), 1).view(config.grid)
    down, across = (
        rewrites.axis_weights(side, out, antialias).ne(0).unflatten(0, (-1, patch)).any(1).float()
        for side, out, patch in zip(box[2:], config.image_size, config.patch[1:], strict=True)
    )
    return int(torch.einsum("thw,hy,wx->tyx", listed, down, across).count_nonzero())


def _pillow(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize the width, then the height: the order of Pillow before 13. Pillow 13 chooses the cheaper order."""
    bilinear, image = PIL.Image.Resampling.BILINEAR, PIL.Image.fromarray(frame)
    return np.asarray(image.resize((size[1], image.height), bilinear).resize(size[::-1], bilinear))
