"""Checkpointed blocks: the same loss and gradients, bit by bit, from less memory."""

from dataclasses import replace

import pytest
import torch

from benchmarks.harness.measure import peak_mib
from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks

TINY = VideoMAEConfig(96, 6, 3, 48, 2, num_frames=8, image_size=(64, 64), patch_size=8)


def loss_and_gradients(model: VideoMAEForPretraining) -> list[torch.Tensor]:
    torch.manual_seed(1)  # of drop path, which must be the same in the repetition
    clip = torch.randint(0, 256, (4, 8, 64, 64, 3), dtype=torch.uint8)
    loss = model(clip, make_masks(torch.arange(4), TINY.grid), "BTHWC")
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_same_results(drop_path: float) -> None:
    kept = VideoMAEForPretraining(replace(TINY, drop_path=drop_path))
    repeated = VideoMAEForPretraining(replace(TINY, drop_path=drop_path, activation_checkpointing=True))
    repeated.load_state_dict(kept.state_dict())
    for ours, expected in zip(loss_and_gradients(repeated), loss_and_gradients(kept), strict=True):
        assert torch.equal(ours, expected)


def test_less_memory() -> None:
    peaks = []
    for activation_checkpointing in (False, True):
        model = VideoMAEForPretraining(replace(TINY, activation_checkpointing=activation_checkpointing))
        peaks.append(peak_mib(lambda model=model: loss_and_gradients(model), torch.device("cpu")))
    assert peaks[1] < 0.7 * peaks[0]
