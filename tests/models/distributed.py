"""One process of two, started by torchrun: DDP or FSDP2 with skipped samples equals one process with all clips."""

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks
from videomae_fast.models import stochastic_depth

CASES = ("ddp", "fsdp2")
CONFIG = VideoMAEConfig(
    48, 3, 3, 24, 2, decoder_depth=2, num_frames=8, image_size=(32, 32), patch_size=8, drop_path=0.6, mlp_ratio=3.21
)


def wrap(model: VideoMAEForPretraining, how: str) -> nn.Module:
    """The model as each process trains it; the patch embedding is sharded alone, so its own hooks must act."""
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (2,))
    for part in (*model.encoder.blocks, *model.decoder.blocks, model.encoder.patch_embed.proj):
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def loss_of(model: nn.Module, sample: Tensor, step: int) -> Tensor:
    """Of clips that are a function of their sample numbers."""
    torch.manual_seed(step)
    clips = torch.randn(4, 3, 8, 32, 32)[sample % 4]
    with stochastic_depth(seed=1, step=step, sample=sample):
        return model(clips, make_masks(sample, CONFIG.grid, mask_ratio=0.7))


def compare(how: str) -> None:
    """Losses and gradients of three steps; in some, a process drops all of its samples somewhere."""
    torch.manual_seed(0)
    alone = VideoMAEForPretraining(CONFIG)
    model = copy.deepcopy(alone)
    wrapped = wrap(model, how)
    for step in range(3):
        alone.zero_grad()
        wrapped.zero_grad()
        sample = torch.arange(4) + 4 * step
        expected = loss_of(alone, sample, step)
        expected.backward()
        loss = loss_of(wrapped, sample.chunk(2)[dist.get_rank()], step)
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        torch.testing.assert_close(mean / 2, expected.detach(), rtol=1e-6, atol=0)
        for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
            gradient = ours.grad.full_tensor() if isinstance(ours.grad, DTensor) else ours.grad
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
