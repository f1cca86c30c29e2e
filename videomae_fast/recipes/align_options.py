"""Sections of options for alignment: its clips, masks, student, teachers and optimizer.

Defaults are the published stage 1 of InternVideo2-1B (scripts/pretraining/1B_pt.sh of OpenGVLab/InternVideo,
InternVideo2/single_modality), but for the pixels.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from ..data.sampling import SAMPLINGS
from ..masks import guided_masks
from ..models.config import InternVideo2Config
from ..models.families import INTERNVIDEO2, Sizes
from .config import Section, option
from .options import BackboneOptions, DataOptions
from .schedule import OptimizerOptions

STUDENTS = Sizes((INTERNVIDEO2,))


@dataclass(frozen=True)
class AlignData(DataOptions):
    """The videos, and the clips cut from them."""

    sampling: str = option(
        "uniform",
        "frames of a clip; uniform: spread over the video, as published; strided: as in pre-training; dense: as in "
        "fine-tuning",
        choices=SAMPLINGS,
    )
    num_frames: int = option(
        8,
        "frames that the student sees; --image-teacher sees the first of each token, and --video-teacher the frames "
        "that make as many tokens",
        least=1,
    )
    crops_per_video: int = option(1, "crops cut from each decoded clip (repeated augmentation)", least=1)
    hflip: bool = option(
        True, "flip half of the crops horizontally; published: but for Something-Something (a mixture's hflip)"
    )

    def of_clips(self, every: int) -> "AlignData":
        """The options of whole clips, of which the student sees one of `every` frames."""
        return replace(self, num_frames=self.num_frames * every)

    def _clips(self, seed: int) -> dict[str, Any]:
        return super()._clips(seed) | {"sampling": self.sampling}


@dataclass(frozen=True)
class AlignMasks(Section):
    """The tokens that the student sees."""

    mask_ratio: float = option(0.8, "share of tokens hidden from the student", least=0, below=1)
    masks_per_clip: int = option(1, "masks of each clip; the teachers run once for all of them", least=1)

    def visible(self, weights: Tensor, sample: Tensor, per: str, seed: int) -> Tensor:
        """Draw the visible tokens, see `guided_masks`.

        Args:
            weights: (B, T', H', W'), of every token.
            sample: (B,) int64 sample numbers of the clips, on the device of `weights`.
            per: "frame" or "clip".
            seed: of the run.

        Returns:
            (B·M, K) int64, ascending.

        Raises:
            ValueError: too few tokens have a weight, or one is negative, NaN or infinite.
        """
        return guided_masks(weights, self.mask_ratio, sample, per=per, masks_per_clip=self.masks_per_clip, seed=seed)


@dataclass(frozen=True)
class StudentOptions(BackboneOptions):
    """The student, and how a step computes its blocks."""

    model: str = option("internvideo2-1b", "size of the student", choices=STUDENTS)
    patch_size: int = option(
        14, "height and width of a token in pixels; the teachers' grids must be the student's", least=1
    )
    tubelet_size: int = option(
        1,
        "frames of a token of the student; it divides that of --video-teacher (published: 1)",
        least=1,
    )
    drop_path: float = option(
        0.25, "stochastic depth of the last block; rises linearly over depth (6b: 0.3)", least=0, below=1
    )

    def student(self, data: DataOptions) -> InternVideo2Config:
        """The configuration of the student for the clips of `data`.

        Args:
            data: gives the size of the clips.

        Returns:
            The configuration.

        Raises:
            ValueError: sizes do not fit together.
        """
        sizes = {"patch_size": self.patch_size, "tubelet_size": self.tubelet_size}
        return cast(InternVideo2Config, self.config(data, **sizes))


@dataclass(frozen=True)
class TeacherOptions(Section):
    """The teachers, what the student learns from each, and how much it counts."""

    image_teacher: str = option(
        "",
        "teacher that sees each frame alone, and guides the masks: InternVL-C's image encoder, or a folder of a "
        "Hugging Face vision model",
        free=True,  # a run continues with the same weights, wherever they are
    )
    video_teacher: str = option(
        "", "teacher that sees all frames: VideoMAE's pre-training weights in any layout, or a run", free=True
    )
    distil_teacher: str = option(
        "", "an InternVideo2 instead of both: one mask for all frames of a clip, and MLP heads, as published", free=True
    )
    image_layers: int = option(
        0,
        "last blocks of the student that learn from --image-teacher or --distil-teacher; 0: 6 as published, or as many "
        "as there are",
        least=0,
    )
    video_layers: int = option(
        0, "last blocks of the student that learn from --video-teacher; 0: 4 as published, or as many", least=0
    )
    distil_interval: float = option(
        3.34, "blocks of --distil-teacher from one that teaches to the next, on average; rounded as published", least=1
    )
    image_weight: float = option(1.0, "weight of the loss of image_layers", least=0)
    pooled_weight: float = option(1.0, "weight of the loss of the pooled row, where the teacher has one", least=0)
    video_weight: float = option(1.0, "weight of the loss of video_layers", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distil_teacher and (self.image_teacher or self.video_teacher):
            raise ValueError(
                f"distil_teacher '{self.distil_teacher}' is the only teacher of a distillation: leave out "
                f"{'image_teacher' if self.image_teacher else 'video_teacher'}"
            )


@dataclass(frozen=True)
class AlignOptimizer(OptimizerOptions):
    """Batches, epochs, and the optimizer. Defaults are the published ones of the 1B model."""

    epochs: int = option(301, "passes over the data", least=1)
    warmup_epochs: int = option(40, "epochs of linear warm-up; must be fewer than epochs", least=0)
    lr: float = option(1.5e-4, "learning rate for 256 videos per step; it is scaled by videos / 256", least=0)
    weight_decay: float = option(
        0.05, "weight decay of matrices; biases, norms, positions and the cls token have none", least=0
    )
    beta2: float = option(0.98, "second AdamW coefficient; the first is 0.9", least=0, below=1)
    clip_grad: float = option(3.0, "largest gradient norm; 0 does not clip", least=0)
    ema_decay: float = option(
        0.0, "decay per step of an average of the weights, which is evaluated and saved too; 0: none", least=0, below=1
    )
