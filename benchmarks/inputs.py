"""Clips and masks of one batch, in every form that an implementation asks for."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from videomae_fast.data import CropBox, multi_scale_crop_box
from videomae_fast.masks import MaskPlan, make_masks
from videomae_fast.models import VideoMAEConfig
from videomae_kernels import CroppedClips, crop_clips

SOURCE, CLIP = (256, 340), 224  # (height, width) of decoded frames (4:3, short side 256), and the side of their clips
CROPS_PER_SOURCE = 4  # published: repeated augmentation


@dataclass(frozen=True)
class Inputs:
    """Random clips of one batch and their masks, in every form that an implementation asks for."""

    config: VideoMAEConfig
    batch_size: int
    device: torch.device
    mask_ratio: float = 0.9
    decoder_mask_ratio: float = 0.5  # 0: no decoder mask, so that all hidden tokens are predicted, as in VideoMAE V1
    seed: int = 0

    @cached_property
    def frames(self) -> Tensor:
        """(B, T, H, W, 3) uint8."""
        generator = torch.Generator(self.device).manual_seed(self.seed)
        shape = (self.batch_size, self.config.num_frames, *self.config.image_size, self.config.in_channels)
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device, generator=generator)

    @cached_property
    def clip(self) -> Tensor:
        """(B, 3, T, H, W) float32, the same pixels normalised."""
        scale = 1 / (255 * torch.tensor(self.config.pixel_std, device=self.device))
        shift = torch.tensor(self.config.pixel_mean, device=self.device) * 255
        return ((self.frames - shift) * scale).permute(0, 4, 1, 2, 3).contiguous()

    @cached_property
    def clip_by_frame(self) -> Tensor:
        """(B, T, 3, H, W) float32, the pixels of `clip`, for Hugging Face."""
        return self.clip.transpose(1, 2).contiguous()

    @cached_property
    def sources(self) -> list[Tensor]:
        """Decoded clips (T, height, width, 3) uint8, one for every CROPS_PER_SOURCE clips of the batch."""
        generator = torch.Generator().manual_seed(self.seed)
        sides = (wanted * side // CLIP for wanted, side in zip(self.config.image_size, SOURCE, strict=True))
        shape = (self.config.num_frames, *sides, self.config.in_channels)
        return [
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(self.device)
            for _ in range(0, self.batch_size, CROPS_PER_SOURCE)
        ]

    @cached_property
    def boxes(self) -> list[CropBox]:
        """The box of each clip in its source: clip b is cut from source b // CROPS_PER_SOURCE."""
        random = np.random.default_rng(self.seed)
        height, width = self.sources[0].shape[1:3]
        return [multi_scale_crop_box(height, width, self.config.image_size, random) for _ in range(self.batch_size)]

    @cached_property
    def crops(self) -> list[Tensor]:
        """The clips before they are resized: views (T, box height, box width, 3) of the sources."""
        return [
            self.sources[b // CROPS_PER_SOURCE][:, top : top + height, left : left + width]
            for b, (top, left, height, width) in enumerate(self.boxes)
        ]

    def cropped_clips(self, resize: str) -> CroppedClips:
        """The same clips for our ops."""
        number = [b // CROPS_PER_SOURCE for b in range(self.batch_size)]
        sources, flipped = [frames.cpu() for frames in self.sources], [False] * self.batch_size
        return crop_clips(sources, number, self.boxes, flipped, self.config.image_size, resize).to(self.device)

    @cached_property
    def loaded_clips(self) -> CroppedClips:
        """The same clips as our loader sends them by default."""
        return self.cropped_clips("antialias")

    @cached_property
    def sample(self) -> Tensor:
        """(B,) sample numbers."""
        return torch.arange(self.batch_size, device=self.device)

    def plan(self) -> MaskPlan:
        """Masks as index lists."""
        decoder = "running_cell" if self.decoder_mask_ratio else "none"
        return make_masks(
            self.sample,
            self.config.grid,
            mask_ratio=self.mask_ratio,
            decoder_mask=decoder,
            decoder_mask_ratio=self.decoder_mask_ratio,
            seed=self.seed,
        )

    @cached_property
    def hidden(self) -> Tensor:
        """(B, N) bool, True where the encoder sees nothing."""
        return self._all_but(self.plan().visible)

    @cached_property
    def not_decoded(self) -> Tensor:
        """(B, N) bool, True where the decoder predicts nothing."""
        return self._all_but(self.plan().decoded)

    def _all_but(self, index: Tensor) -> Tensor:
        everything = torch.ones(self.batch_size, self.config.num_tokens, dtype=torch.bool, device=self.device)
        return everything.scatter(1, index, False)
