"""One of two processes: DDP or FSDP2 around a fused model equals the plain model on all clips."""

import os
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.interop.models import as_bool, assert_close, clip, gradients, hugging_face, plan
from videomae_fast.interop import fuse

CASES = tuple(product(("ddp", "fsdp2"), ("fuse first", "wrap first"), ("bool", "plan")))


def wrap(model: nn.Module, how: str) -> nn.Module:
    """The model as each of its processes trains it."""
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (2,))
    for layer in (*model.videomae.encoder.layer, model.videomae.embeddings):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def whole(gradient: Tensor) -> Tensor:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def compare(how: str, order: str, mask_kind: str) -> None:
    """Losses and gradients of both."""
    pixels, masks = clip(batch=4), plan(batch=4, decoder_mask="none")
    hidden = as_bool(masks.visible)
    plain = hugging_face()
    expected = plain(pixels, bool_masked_pos=hidden).loss
    expected.backward()

    model = hugging_face()
    wrapped = wrap(fuse(model), how) if order == "fuse first" else fuse(wrap(model, how))
    first = 2 * dist.get_rank()
    mine = plan(batch=2, first=first, decoder_mask="none") if mask_kind == "plan" else hidden[first : first + 2]
    loss = wrapped(pixels[first : first + 2], bool_masked_pos=mine).loss
    loss.backward()
    assert_close({name: whole(gradient) for name, gradient in gradients(model).items()}, gradients(plain), 1e-5)
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    assert_close(mean / 2, expected.detach(), 1e-6)


def main() -> None:
    """Every combination; a line for each that agrees."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for case in CASES:
        compare(*case)
        print("agree:", *case, flush=True)
    dist.barrier()
    os._exit(0)  # gloo's threads abort some interpreters while they shut down, with nothing left to do


if __name__ == "__main__":
    main()
