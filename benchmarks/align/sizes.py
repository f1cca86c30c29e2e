"""The models of an alignment by the size of its student: heads, teachers, and the batch of a GPU."""

from dataclasses import dataclass, replace

from videomae_fast.memory.batches import CARDS
from videomae_fast.models import (
    CONFIGS,
    INTERNVIDEO2_CONFIGS,
    AlignmentHeads,
    InternVideo2Config,
    VideoMAEConfig,
)

INTERNVL = InternVideo2Config(3200, 48, 25, layer_scale=0.1, num_frames=1)  # the image encoder of InternVL-C
TINY = InternVideo2Config(
    48, 3, 3, pool_heads=4, clip_embed_dim=24, layer_scale=0.1, patch_size=8, num_frames=4, image_size=(32, 32)
)


@dataclass(frozen=True)
class AlignSize:
    """A student, its teachers, and how many of their last blocks are compared."""

    student: InternVideo2Config
    image: InternVideo2Config  # of one frame
    video: VideoMAEConfig
    clips: int  # of a GPU in the published script, or few where there is none
    image_layers: int = 6
    video_layers: int = 4
    checkpoints: bool = False  # whether the published script does
    usable: int = CARDS["A100-80"]  # bytes of the card that clips are to fit on

    @property
    def heads(self) -> AlignmentHeads:
        """The published heads: block L - j of the student is compared with block L_T - j of a teacher."""
        depth = self.student.encoder_depth
        return AlignmentHeads(
            tuple(range(depth - self.image_layers, depth)),
            image_dim=self.image.encoder_dim,
            pooled_dim=self.image.clip_embed_dim,
            video_layers=tuple(range(depth - self.video_layers, depth)),
            video_dim=self.video.encoder_dim,
        )

    @property
    def teacher_layers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The blocks of the image and of the video teacher, ascending."""
        image, video = self.image.encoder_depth, self.video.encoder_depth
        return tuple(range(image - self.image_layers, image)), tuple(range(video - self.video_layers, video))


def _alike(student: InternVideo2Config) -> InternVideo2Config:
    """An image teacher as large as the student: the published one takes minutes on a CPU."""
    return replace(student, num_frames=1, layer_scale=0.1)


PUBLISHED_SIZES = ("1b", "6b")  # of the published stage 1
# 1b and 6b have the published teachers, batches and checkpointing. The others are for a CPU, "tiny" to try the suite.
ALIGN_SIZES = {
    **{
        size: AlignSize(student, _alike(student), replace(CONFIGS[size], patch_size=14), clips=4)
        for size, student in INTERNVIDEO2_CONFIGS.items()
        if size in CONFIGS
    },
    "1b": AlignSize(INTERNVIDEO2_CONFIGS["1b"], INTERNVL, CONFIGS["giant"], clips=32, checkpoints=True),
    "6b": AlignSize(INTERNVIDEO2_CONFIGS["6b"], INTERNVL, CONFIGS["giant"], clips=8, checkpoints=True),
    "tiny": AlignSize(
        TINY,
        replace(_alike(TINY), encoder_dim=32, encoder_heads=2),
        VideoMAEConfig(24, 2, 2, 16, 2, patch_size=8, num_frames=8, image_size=(32, 32)),
        clips=4,
        image_layers=2,
        video_layers=1,
        checkpoints=True,
        usable=2**24,
    ),
}
