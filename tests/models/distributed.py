"""One of two processes: DDP or FSDP2 with skipped samples equals one process with all clips."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks
from videomae_fast.models import stochastic_depth
from videomae_fast.models.linear import Copies, autocast_copies

CASES = ("ddp", "fsdp2", "ddp autocast", "fsdp2 autocast", "fsdp2 bf16")
CONFIG = VideoMAEConfig(
    48, 3, 3, 24, 2, decoder_depth=2, num_frames=8, image_size=(32, 32), patch_size=8, drop_path=0.6, mlp_ratio=3.21
)


def wrap(model: VideoMAEForPretraining, how: str) -> nn.Module:
    """The model as each process trains it; the patch embedding is sharded alone, so its own hooks must act."""
    if how.startswith("ddp"):
        return nn.parallel.DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (2,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if how == "fsdp2 bf16" else MixedPrecisionPolicy()
    for part in (*model.encoder.blocks, *model.decoder.blocks):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    fully_shard(model.encoder.patch_embed.proj, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def loss_of(model: nn.Module, sample: Tensor, step: int, autocast: bool) -> Tensor:
    """Of clips that are a function of their sample numbers."""
    torch.manual_seed(step)
    clips = torch.randn(4, 3, 8, 32, 32)[sample % 4]
    half = torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False)
    with half, stochastic_depth(seed=1, step=step, sample=sample):
        return model(clips, make_masks(sample, CONFIG.grid, mask_ratio=0.7))


@contextmanager
def counted_copies() -> Iterator[list[int]]:
    """How many layers' weights every block copies into the autocast dtype."""
    counts: list[int] = []

    def counting(*args: Any) -> Copies:
        copies = autocast_copies(*args)
        counts.append(len(copies))
        return copies

    with mock.patch("videomae_fast.models.layers.autocast_copies", counting):
        yield counts


def compare(how: str) -> None:
    """Losses and gradients of three steps; in some, a process drops all of its samples somewhere."""
    torch.manual_seed(0)
    alone = VideoMAEForPretraining(CONFIG)
    model = copy.deepcopy(alone)
    wrapped, half = wrap(model, how), not how.endswith(("ddp", "fsdp2"))
    for step in range(3):
        alone.zero_grad()
        wrapped.zero_grad()
        sample = torch.arange(4) + 4 * step
        expected = loss_of(alone, sample, step, half)
        expected.backward()
        with counted_copies() as copies:
            loss = loss_of(wrapped, sample.chunk(2)[dist.get_rank()], step, half)
        loss.backward()
        assert sum(copies) == (4 * 5 if how.endswith("autocast") else 0)  # FSDP2 with its own policy has cast them
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        torch.testing.assert_close(mean / 2, expected.detach(), rtol=1e-2 if half else 1e-6, atol=0)
        for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
            gradient = ours.grad.full_tensor() if isinstance(ours.grad, DTensor) else ours.grad
            if half:
                assert (gradient - theirs.grad).norm() < 0.05 * theirs.grad.norm() + 1e-6
            else:
                torch.testing.assert_close(gradient, theirs.grad, rtol=1e-4, atol=1e-7)


def main() -> None:
    """Every case; a line for each that agrees."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for case in CASES:
        compare(case)
        print("agree:", case, flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
