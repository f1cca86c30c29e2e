"""The whole step on crops as one CUDA graph: padded batches of videos of any size are replayed."""

import pytest
import torch
from torch import Tensor

from tests.models.test_cuda_graph import assert_replay_equals_eager
from tests.models.test_whole_step import STEPS, TINY
from videomae_kernels import CroppedClips, crop_clips

NUM_BYTES, TAPS = 8 * 60 * 60 * 3, 8


def padded_batch(number: int, device: torch.device) -> tuple[Tensor, CroppedClips]:
    """(sample numbers, crops) of a step; sizes of videos and numbers of taps differ from step to step."""
    torch.manual_seed(number)
    height, width = 33 + 9 * number, 60 - 8 * number
    source = torch.randint(0, 256, (TINY.num_frames, height, width, 3), dtype=torch.uint8)
    boxes = [(0, 0, height, width), (1, 2, height - 3, width - 4)]
    clips = crop_clips([source], [0, 0], boxes, [False, True], TINY.image_size).padded(NUM_BYTES, TAPS)
    return torch.tensor([2 * number, 2 * number + 1], device=device), clips.to(device)


def test_padded_batches_have_the_same_shapes_and_other_taps() -> None:
    batches = [padded_batch(number, torch.device("cpu"))[1] for number in range(STEPS)]
    assert len({tuple(tensor.shape for tensor in clips.tensors) for clips in batches}) == 1
    assert len({tuple(clips.geometry[:, 3:5].flatten().tolist()) for clips in batches}) > 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_step_on_padded_crops_is_one_cuda_graph() -> None:
    def overwrite(clips: CroppedClips, new_clips: CroppedClips) -> None:
        for ours, new in zip(clips.tensors, new_clips.tensors, strict=True):
            ours.copy_(new)

    assert_replay_equals_eager(padded_batch, overwrite)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_constants_are_no_uploads() -> None:
    """A first call of an op may be in a capture once its kernel is compiled: other statistics than those of the
    warm-up, for up to four channels and for more.
    """
    from videomae_kernels import tube_mask_gather

    for channels in (1, 3, 5):
        clip = torch.randint(0, 256, (1, channels, 2, 16, 16), dtype=torch.uint8, device="cuda")
        index = torch.tensor([[0, 2]], device="cuda")
        tube_mask_gather(clip, index, (2, 8, 8), normalize=([0.5] * channels, [0.25] * channels))
        stats = [0.1 * (c + 1) for c in range(channels)], [0.3 + 0.1 * c for c in range(channels)]
        expected = tube_mask_gather(clip.cpu(), index.cpu(), (2, 8, 8), normalize=stats)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            rows = tube_mask_gather(clip, index, (2, 8, 8), normalize=stats)
        graph.replay()
        torch.testing.assert_close(rows.cpu(), expected)
