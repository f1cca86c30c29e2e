"""Student and teachers in one module, the published way and ours, from the same weights: `teach`, then the loss.

Both draw masks from the attention of the image teacher, and then take given ones, so that both compute the same.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from benchmarks.align.sizes import AlignSize
from benchmarks.baselines.internvideo2 import (
    PublishedImageTeacher,
    PublishedInternVideo2,
    PublishedVideoTeacher,
    alignment_losses,
    attention_mask,
    kept_targets,
    total_loss,
)
from benchmarks.baselines.published.model import Encoder as PublishedEncoder
from videomae_fast.masks import guided_masks
from videomae_fast.models import InternVideo2, InternVideo2ForAlignment, TeacherRows
from videomae_fast.models.encoder import Encoder
from videomae_fast.models.frozen_teacher import observe_and_draw
from videomae_fast.models.guides import InternVideo2Guide
from videomae_fast.models.video_teacher import VideoMAETeacher

SEED = 0
PUBLISHED_WEIGHTS = (1.0, 1.0, 1.0)  # of the losses of image layers, pooled row and video layers


@dataclass(frozen=True)
class AlignWeights:
    """Our three models, which both implementations are built from."""

    size: AlignSize
    student: InternVideo2ForAlignment
    image: InternVideo2
    video: Encoder

    @classmethod
    def of(cls, size: AlignSize) -> "AlignWeights":
        """The weights that seed 0 gives."""
        torch.manual_seed(SEED)
        student = InternVideo2ForAlignment(size.student, size.heads)
        return cls(size, student, InternVideo2(size.image), Encoder(size.video))


@dataclass(frozen=True)
class AlignBatch:
    """Random clips and masks of one batch. `masks` of them follow each other for each clip.

    Args:
        size: the models.
        clips: B.
        masks: M.
        device: of the tensors.
        mask_ratio: hidden tokens of each frame.
    """

    size: AlignSize
    clips: int
    masks: int
    device: torch.device
    mask_ratio: float = 0.8

    @cached_property
    def frames(self) -> Tensor:
        """(B, T, H, W, 3) uint8: all frames, which the video teacher sees."""
        video, generator = self.size.video, torch.Generator(self.device).manual_seed(SEED)
        shape = (self.clips, video.num_frames, *video.image_size, video.in_channels)
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device, generator=generator)

    @cached_property
    def repeated_clip(self) -> Tensor:
        """(B·M, 3, T, H, W) float32, normalised: the published code has a clip for each mask."""
        config = self.size.video
        scale = 1 / (255 * torch.tensor(config.pixel_std, device=self.device))
        shift = torch.tensor(config.pixel_mean, device=self.device) * 255
        clip = ((self.frames - shift) * scale).permute(0, 4, 1, 2, 3)
        return clip.repeat_interleave(self.masks, 0).contiguous()

    @property
    def visible_per_frame(self) -> int:
        _, height, width = self.size.student.grid
        return height * width - int(height * width * self.mask_ratio)

    @cached_property
    def visible(self) -> Tensor:
        """(B·M, K) int64 ascending: the masks that are taken."""
        frames, height, width = self.size.student.grid
        generator = torch.Generator(self.device).manual_seed(SEED)
        noise = torch.rand(self.clips * self.masks, frames, height * width, device=self.device, generator=generator)
        first = torch.arange(frames, device=self.device)[:, None] * (height * width)
        return (noise.argsort(-1)[..., : self.visible_per_frame].sort(-1).values + first).flatten(1)

    @cached_property
    def hidden(self) -> Tensor:
        """(B·M, 1 + N) bool, True = hidden: the same masks."""
        shape = self.clips * self.masks, 1 + self.size.student.num_tokens
        hidden = torch.ones(shape, dtype=torch.bool, device=self.device)
        hidden[:, 0] = False
        return hidden.scatter(1, self.visible + 1, False)

    @cached_property
    def sample(self) -> Tensor:
        """(B,) sample numbers."""
        return torch.arange(self.clips, device=self.device)


class PublishedAlignment(nn.Module):
    """The published structure: float32 teachers, features of all tokens, boolean masks that are made on the host."""

    def __init__(self, weights: AlignWeights, checkpointing: bool = False) -> None:
        super().__init__()
        size = weights.size
        self.student = PublishedInternVideo2.from_config(size.student, size.heads, checkpointing)
        self.student.load_state_dict(weights.student.state_dict())
        self.image = PublishedImageTeacher(size.image_layers, **PublishedImageTeacher.sizes(size.image))
        self.image.load_state_dict(weights.image.state_dict())
        video = size.video
        encoder = PublishedEncoder(
            video.image_size,
            video.patch,
            video.num_tokens,
            video.encoder_dim,
            video.encoder_depth,
            video.encoder_heads,
            video.mlp_ratio,
            "sdpa",  # published: flash attention
            False,
        )
        encoder.load_state_dict(weights.video.state_dict())
        self.video = PublishedVideoTeacher(encoder, size.video_layers)
        self.image.eval(), self.video.eval()
        self.stride = video.num_frames // size.student.num_frames

    @torch.no_grad()
    def teach(self, batch: AlignBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Targets at the visible rows of image layers, of the pooled row, and of video layers."""
        clip = batch.repeated_clip
        image, pooled, attention = self.image(clip[:, :, :: self.stride])
        video = self.video(clip)
        torch.clear_autocast_cache()  # the published teachers run in a context of their own
        attention_mask(attention.float(), batch.mask_ratio, len(clip))  # drawn as published, and not taken
        return kept_targets(image, batch.hidden), pooled[None], kept_targets(video, batch.hidden[:, 1:])

    def forward(self, batch: AlignBatch) -> Tensor:
        targets = self.teach(batch)
        image, pooled, video = self.student(batch.repeated_clip[:, :, :: self.stride], batch.hidden)
        outputs = (image, pooled[None], video)
        losses = [alignment_losses(found, wanted) for found, wanted in zip(outputs, targets, strict=True)]
        return total_loss(losses, PUBLISHED_WEIGHTS)


class OurAlignment(nn.Module):
    """Ours: teachers in `dtype`, which run once for the masks of a clip and hand over the visible rows."""

    def __init__(self, weights: AlignWeights, dtype: torch.dtype) -> None:
        super().__init__()
        size = weights.size
        image_layers, video_layers = size.teacher_layers
        self.student = weights.student
        self.guide = InternVideo2Guide(
            weights.image, image_layers, num_frames=size.student.num_frames, dtype=dtype, name="image"
        )
        self.teacher = VideoMAETeacher(weights.video, video_layers, dtype=dtype, name="video")
        self.image, self.video = weights.image, weights.video  # of which the module knows, to move them
        self.stride = size.video.num_frames // size.student.num_frames

    def teach(self, batch: AlignBatch) -> tuple[TeacherRows, TeacherRows]:
        """Rows of the image and of the video teacher at the visible tokens."""
        clip = batch.frames.permute(0, 4, 1, 2, 3)

        def draw(attention: Tensor, part: slice) -> Tensor:
            ratio, masks = batch.mask_ratio, batch.masks
            guided_masks(attention, ratio, batch.sample[part], masks_per_clip=masks, seed=SEED)  # and not taken
            return batch.visible[part.start * masks : part.stop * masks]

        visible, image = observe_and_draw(self.guide, clip[:, :, :: self.stride], draw)
        return image, self.teacher.rows(clip, visible)

    def forward(self, batch: AlignBatch) -> Tensor:
        image, video = self.teach(batch)
        clip = batch.frames[:, :: self.stride]
        losses = self.student(clip, batch.visible, image, video, layout="BTHWC")
        assert losses.image is not None and losses.pooled is not None and losses.video is not None
        return losses.image.mean() + losses.pooled + losses.video.mean()
