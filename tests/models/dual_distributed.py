"""One of two processes: DDP over a dual encoder, clips and images in turn, equals one process."""

import copy
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from videomae_fast import InternVideo2Config, VideoMAEConfig
from videomae_fast.models import (
    InternVideo2Tower,
    SplitBert,
    SplitBertConfig,
    VideoTextFusionModel,
    VideoTower,
    VideoTransformer,
)

CASES = ("VideoTransformer", "InternVideo2Tower", "frozen prefix")
SIZE: dict[str, Any] = {"patch_size": 8, "num_frames": 4, "image_size": (16, 16)}
BERT = SplitBertConfig(
    16, 2, 2, text_layers=1, hidden=24, vocab_size=40, max_length=8, cls_id=2, mask_id=4, dropout=0.0
)
MASK = torch.tensor([1, 1, 1, 1, 0]).expand(4, -1)


def tower_of(case: str) -> VideoTower:
    if case == "InternVideo2Tower":
        return InternVideo2Tower(InternVideo2Config(48, 2, 3, pool_heads=4, clip_embed_dim=20, **SIZE))
    tower = VideoTransformer(VideoMAEConfig(24, 2, 3, 12, 3, **SIZE))
    if case == "frozen prefix":
        tower.freeze("last:1")
    return tower


def loss_of(model: nn.Module, sample: Tensor, image: bool, **options: Any) -> Tensor:
    """Of clips and captions that are a function of their sample numbers. Words have another mean in each process."""
    torch.manual_seed(1)
    rows = sample % 4
    clips = torch.randn(4, 3, 1 if image else 4, 16, 16, dtype=torch.float64)[rows]
    ids = torch.randint(5, 40, (4, 5))[rows]
    output = model(clips, ids, MASK[rows], sample, seed=3, **options)
    near = output.pairs.scale * (output.pairs.video * output.pairs.text).sum(1).mean()
    return output.matching + near + 0 * output.words


def gather(rows: Tensor) -> Tensor:
    """Rows of both processes."""
    return torch.cat(all_gather(rows.contiguous()))


def compare(case: str) -> None:
    """Losses and gradients of a step of clips, one of images and one of clips."""
    torch.manual_seed(0)
    tower = tower_of(case)
    alone = VideoTextFusionModel(tower, SplitBert(BERT, tower.token_dim), 12).double()
    model = copy.deepcopy(alone)
    wrapped = nn.parallel.DistributedDataParallel(model)
    for step, image in enumerate((False, True, False)):
        alone.zero_grad()
        wrapped.zero_grad()
        sample = torch.arange(4) + 4 * step
        expected = loss_of(alone, sample, image)
        expected.backward()
        loss = loss_of(wrapped, sample.chunk(2)[dist.get_rank()], image, gather=gather)
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        torch.testing.assert_close(mean / 2, expected.detach())
        check = partial(torch.testing.assert_close, rtol=1e-8, atol=1e-12)
        for (name, ours), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None) == (not ours.requires_grad), name
            if ours.grad is not None:
                check(ours.grad, theirs.grad, msg=name)


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
