"""A plain transformers training loop, and the gain of one line, `fuse`, in step time and peak memory.

The same weights train twice on the same batches, plain and fused. The steps alternate, so a busy machine slows both.
The gain is the median over many pairs of steps, with the quartiles.

Run: python examples/train_huggingface.py [CLIPS_PER_STEP [STEPS]]   (ViT-B; takes minutes on a CPU)
"""

import copy
import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from videomae_fast import fuse

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Batch = tuple[Tensor, Tensor]  # pixel_values (B, T, C, H, W); bool_masked_pos (B, N), True = hidden


class Training:
    """An ordinary loop: forward, backward, AdamW."""

    def __init__(self, model: Any) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-4, weight_decay=0.05)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, pixel_values: Tensor, bool_masked_pos: Tensor) -> None:
        start = time.perf_counter()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            loss = self.model(pixel_values, bool_masked_pos=bool_masked_pos).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())

    def peak_mib(self, batch: Batch) -> float:
        """Peak of tensor memory in a step, in MiB, above weights, optimizer state and the batch."""
        if DEVICE.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step(*batch)
            return (torch.cuda.max_memory_allocated() - before) / 2**20
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
            self.step(*batch)
        live = peak = 0
        for event in run.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                peak = max(peak, live)
        return peak / 2**20


def make_batches(config: Any, clips: int, steps: int) -> list[Batch]:
    """Random pixels, and tube masks that hide the same 90 % of positions in every frame. Use your DataLoader here."""
    size = (clips, config.num_frames, config.num_channels, config.image_size, config.image_size)
    positions = (config.image_size // config.patch_size) ** 2
    batches = []
    for _ in range(steps):
        hidden = torch.rand(clips, positions).argsort(1) < int(0.9 * positions)
        mask = hidden.repeat(1, config.num_frames // config.tubelet_size)
        batches.append((torch.randn(size).to(DEVICE), mask.to(DEVICE)))
    return batches


def main(clips: int = 2, steps: int = 16, **config: Any) -> tuple[Training, Training]:
    """Train the plain and the fused model, and print medians and quartiles. The first step of each does not count."""
    import transformers

    torch.manual_seed(0)
    model: Any = transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**config))
    model.to(DEVICE)
    plain = Training(copy.deepcopy(model))

    fused = Training(fuse(model))  # the one line

    batches = make_batches(model.config, clips, steps)
    for number, batch in enumerate(batches):
        for training in (plain, fused) if number % 2 else (fused, plain):
            training.step(*batch)
    seconds = plain.seconds[1:], fused.seconds[1:]
    speed = [before / after for before, after in zip(*seconds, strict=True)]
    memory = plain.peak_mib(batches[-1]), fused.peak_mib(batches[-1])

    print(f"plain: {spread(seconds[0])} s/step, peak {memory[0]:,.0f} MiB, loss {plain.losses[-1]:.4f}")
    print(f"fused: {spread(seconds[1])} s/step, peak {memory[1]:,.0f} MiB, loss {fused.losses[-1]:.4f}")
    print(f"gain: {spread(speed)} times the speed, {memory[1] / memory[0]:.2f} times the memory")
    return plain, fused


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.3g} ({low:.3g} to {high:.3g})"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
