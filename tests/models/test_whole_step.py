"""The whole step - masks, forward, backward, optimizer - as one compiled function."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks
from videomae_kernels import CroppedClips, crop_clips

TINY = VideoMAEConfig(48, 2, 3, 24, 2, decoder_depth=2, num_frames=8, image_size=(32, 32), patch_size=8)
STEPS = 4
Loss = Callable[[Tensor, Any], Tensor]
Batch = Callable[[int, torch.device], tuple[Tensor, Any]]


def batch(number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(sample numbers, frames) of a step."""
    torch.manual_seed(number)
    frames = torch.randint(0, 256, (2, TINY.num_frames, *TINY.image_size, 3), dtype=torch.uint8)
    return torch.tensor([2 * number, 2 * number + 1], device=device), frames.to(device)


def cropped_batch(number: int, device: torch.device) -> tuple[Tensor, CroppedClips]:
    """(sample numbers, crops) of a step, from frames of another size in every step."""
    sample, _ = batch(number, device)
    source = torch.randint(0, 256, (TINY.num_frames, 40 + number, 50 - number, 3), dtype=torch.uint8)
    boxes = [(0, 0, 40, 40), (number, 3, 36, 42)]
    return sample, crop_clips([source], [0, 0], boxes, [False, True], TINY.image_size).to(device)


def make_loss(model: nn.Module) -> Loss:
    def loss(sample: Tensor, clips: Tensor | CroppedClips) -> Tensor:
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=clips.device.type == "cuda"):
            return model(clips, make_masks(sample, TINY.grid, mask_ratio=0.7), "BTHWC")

    return loss


def assert_same_run(ours: list[Tensor], expected: list[Tensor], rtol: float) -> None:
    assert len({float(loss) for loss in expected}) == STEPS, "every step has another batch and other masks"
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected), rtol=rtol, atol=0)


def run(loss: Loss, optimizer: torch.optim.Optimizer, device: torch.device, batch: Batch = batch) -> list[Tensor]:
    losses = []
    for number in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        value = loss(*batch(number, device))
        value.backward()
        optimizer.step()
        losses.append(value.detach().clone())
    return losses


@pytest.mark.parametrize(
    ("backend", "batch"),
    [("aot_eager", batch), ("aot_eager", cropped_batch), pytest.param("inductor", batch, marks=pytest.mark.slow)],
)
def test_masks_and_loss_compile_to_one_graph(backend: str, batch: Batch) -> None:
    """The step with its masks is one graph, and new samples or a third frame size do not recompile."""
    torch.compiler.reset()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = VideoMAEForPretraining(TINY).to(device)
    twin = copy.deepcopy(model)
    expected = run(make_loss(twin), torch.optim.AdamW(twin.parameters(), lr=1e-3), device, batch)
    compiled = torch.compile(make_loss(model), fullgraph=True, backend=backend)
    for number in range(2):
        compiled(*batch(number, device))
    with torch.compiler.set_stance("fail_on_recompile"):
        ours = run(compiled, torch.optim.AdamW(model.parameters(), lr=1e-3), device, batch)
    assert_same_run(ours, expected, rtol=1e-2 if device.type == "cuda" else 1e-5)
