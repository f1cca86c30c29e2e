"""A plain transformers training loop, and what one line of `fuse` gains it: step time and peak memory.

Run: python examples/train_huggingface.py [CLIPS_PER_STEP]
"""

import copy
import statistics
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.measure import host_seconds, peak_mib
from videomae_fast import fuse

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Run:
    """What one training took."""

    losses: list[float]
    seconds: float  # median of the steps after the first
    mib: float  # peak of tensor memory above weights, optimizer state and the batch, gradients included


def tube_mask(config: Any, clips: int, ratio: float = 0.9) -> Tensor:
    """(B, N) bool, True = hidden: the same random positions in every frame."""
    positions = (config.image_size // config.patch_size) ** 2
    hidden = torch.rand(clips, positions).argsort(1) < int(ratio * positions)
    return hidden.repeat(1, config.num_frames // config.tubelet_size)


def make_batches(config: Any, clips: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Random pixels and masks; put your DataLoader here."""
    size = (clips, config.num_frames, config.num_channels, config.image_size, config.image_size)
    return [(torch.randn(size).to(DEVICE), tube_mask(config, clips).to(DEVICE)) for _ in range(steps)]


def train(model: Any, batches: list[tuple[Tensor, Tensor]]) -> Run:
    """An ordinary loop: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1.5e-4, weight_decay=0.05)
    losses = []

    def step(pixel_values: Tensor, bool_masked_pos: Tensor) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            loss = model(pixel_values, bool_masked_pos=bool_masked_pos).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    seconds = [host_seconds(lambda batch=batch: step(*batch), DEVICE) for batch in batches]
    mib = peak_mib(lambda: step(*batches[-1]), DEVICE)
    return Run(losses, statistics.median(seconds[1:]), mib)


def main(clips: int = 2, steps: int = 3, **config: Any) -> tuple[Run, Run]:
    """Train the same weights on the same batches, first as transformers has it and then fused; prints the gain."""
    import transformers

    torch.manual_seed(0)
    model = transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**config)).to(DEVICE)
    batches = make_batches(model.config, clips, steps)
    plain = train(copy.deepcopy(model), batches)

    fuse(model)  # the one line

    fused = train(model, batches)
    for name, run in (("plain", plain), ("fused", fused)):
        print(f"{name}: {run.seconds:.3f} s/step, peak {run.mib:,.0f} MiB, loss {run.losses[-1]:.4f}")
    print(f"gain: {plain.seconds / fused.seconds:.2f}x the speed, {fused.mib / plain.mib:.2f}x the memory")
    return plain, fused


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
