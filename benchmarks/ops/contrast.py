"""Losses of all pairs of a batch that ranks share: 4,096 to 32,768 pairs of 128 clips on 32 to 256 ranks."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import videomae_kernels as vk
from benchmarks.baselines import rewrites
from benchmarks.baselines.vivit import full_clip_loss
from benchmarks.ops.workload import OURS, PUBLISHED, REWRITE, Op, OpCase, Variant, Workload

RANKS = (32, 64, 128, 256)
CHUNKED = "published, chunked"
CHUNKS = 8
SCALE, BIAS = 1 / 0.07, -10.0  # at the beginning of training
FLOAT32_BYTES = 4
BFLOAT16_STEPS = 0.2  # relative error of the published code, whose logits are rounded to bfloat16


def _siglip(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """open_clip's, of the whole matrix."""
    return _siglip_of_chunks(x, y, scale, bias, 1)


def _siglip_of_chunks(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, chunks: int = CHUNKS) -> Tensor:
    """open_clip's with `chunk_size`: a chunk of logits at a time, each of which autograd keeps."""
    total, column = scale.new_zeros((), dtype=torch.float32), 0
    for part in y.chunk(chunks):
        sign = x.new_full((len(x), len(part)), -1.0)
        sign[column : column + len(part)].fill_diagonal_(1.0)
        total = total - F.logsigmoid(sign * (scale.to(x.dtype) * x @ part.T + bias.to(x.dtype))).sum(
            dtype=torch.float32
        )
        column += len(part)
    return total / len(x)


def _workload(
    case: OpCase,
    numbers: Sequence[float],
    published: dict[str, Callable[..., Tensor]],
    rewrite: Callable[..., Tensor],
    ours: Callable[..., Tensor],
    kept: int,
) -> Workload:
    """Of features as wide as the encoder; `kept` float32 numbers of each pair pass from forward to backward."""
    pairs, width = case.batch_size * int(case.clip.split()[1]), case.inputs.config.encoder_dim
    features = [F.normalize(case.normal(pairs, width).detach().float(), dim=1).to(case.dtype) for _ in range(2)]
    leaves = [*features, *(torch.tensor(number, device=case.device) for number in numbers)]
    leaves = [leaf.requires_grad_(case.direction == "backward") for leaf in leaves]
    doubles = [leaf.detach().double().requires_grad_(leaf.requires_grad) for leaf in leaves]

    def of(loss: Callable[..., Tensor], arguments: list[Tensor], inexact: float = 0.0) -> Variant:
        return Variant(lambda: loss(*arguments), arguments, inexact=inexact)

    moved = sum(feature.nbytes for feature in features)
    if case.direction == "forward":
        moved += FLOAT32_BYTES * pairs * (1 + kept)  # what each pair adds to the loss
    else:  # features and their gradients; the gradients of what forward gave are as many as it keeps, or one
        moved = 2 * moved + FLOAT32_BYTES * pairs * (kept + max(kept, 1))
    rounded = BFLOAT16_STEPS * (case.precision == "bf16")
    return Workload(
        {
            **{name: of(loss, leaves, rounded) for name, loss in published.items()},
            REWRITE: of(rewrite, leaves),
            OURS: of(ours, leaves),
        },
        moved,
        of(rewrite, doubles),
    )


def _clip_loss(case: OpCase) -> Workload:
    return _workload(case, (SCALE,), {PUBLISHED: full_clip_loss}, rewrites.clip_loss, vk.contrastive_loss, kept=2)


def _siglip_loss(case: OpCase) -> Workload:
    def ours(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return vk.contrastive_loss(x, y, scale, bias, "siglip")

    published = {PUBLISHED: _siglip, CHUNKED: _siglip_of_chunks}
    return _workload(case, (SCALE, BIAS), published, rewrites.siglip_loss, ours, kept=0)


def _op(kind: str, build: Callable[[OpCase], Workload], *published: str) -> Op:
    shared = tuple(f"{kind}, {ranks} ranks" for ranks in RANKS)
    return Op("contrastive_loss", build, ("forward", "backward"), shared, variants=(*published, REWRITE, OURS))


CONTRAST_OPS = (_op("clip", _clip_loss, PUBLISHED), _op("siglip", _siglip_loss, PUBLISHED, CHUNKED))
