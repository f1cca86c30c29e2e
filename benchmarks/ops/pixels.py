"""Ops on clips: the pixels of kept tokens, their embedding, targets, the loss.

The published code always gets a normalised float clip. It is not run on crops: its loader resizes and normalises them
on the CPU, and the figure of an op would leave that work out. The rewrites resize every crop (F.interpolate; exact
integers for "pillow") and then work as on a whole clip. Their crops are views whose sizes the host knows, which cost
nothing. P is the number of values of a token.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

import videomae_kernels as vk
from benchmarks.baselines import rewrites
from benchmarks.baselines.published.loss import published_loss, published_target
from benchmarks.inputs import CROPS_PER_SOURCE, Inputs
from benchmarks.ops.clip import INDEX_BYTES, SAMPLING_ERROR, Pixels
from benchmarks.ops.workload import (
    CLIPS,
    COMPILED,
    CROPS,
    OURS,
    PUBLISHED,
    REWRITE,
    Op,
    OpCase,
    Variant,
    Workload,
)
from videomae_fast.models.positions import sinusoid_table


def _tube_mask_gather(case: OpCase) -> Workload:
    pixels, patch, index = Pixels(case, targets=False), case.inputs.config.patch, case.inputs.plan().visible
    view, dtype = pixels.view, case.dtype
    affine = pixels.affine()
    exact = pixels.affine(torch.float64)
    return Workload(
        {
            REWRITE: Variant(
                lambda: rewrites.tube_mask_gather(view(), index, patch, affine, dtype), inexact=pixels.inexact
            ),
            OURS: Variant(
                lambda: vk.tube_mask_gather(
                    pixels.clip, index, patch, layout=pixels.layout, normalize=pixels.stats, dtype=dtype
                )
            ),
        },
        pixels.bytes(index) + index.numel() * case.inputs.config.patch_dim * dtype.itemsize,  # pixels and rows
        Variant(lambda: rewrites.tube_mask_gather(pixels.exact, index, patch, exact, torch.float64)),
    )


def _tube_mask_gather_backward(case: OpCase) -> Workload:
    """The gradient for a float clip: uint8 pixels have none."""
    patch, index, dtype = case.inputs.config.patch, case.inputs.plan().visible, case.dtype
    clip = case.inputs.clip.clone().requires_grad_()
    double = clip.detach().double().requires_grad_()
    rows_moved = index.numel() * case.inputs.config.patch_dim * dtype.itemsize
    return Workload(
        {
            REWRITE: Variant(lambda: rewrites.tube_mask_gather(clip, index, patch, None, dtype), [clip]),
            OURS: Variant(lambda: vk.tube_mask_gather(clip, index, patch, dtype=dtype), [clip]),
        },
        rows_moved + INDEX_BYTES * index.numel() + clip.nbytes,  # also the gradient of the whole clip
        Variant(lambda: rewrites.tube_mask_gather(double, index, patch, None, torch.float64), [double]),
    )


def _embed_tokens(case: OpCase) -> Workload:
    pixels, config, index = Pixels(case, targets=False), case.inputs.config, case.inputs.plan().visible
    patch, dim, dtype, hidden = config.patch, config.encoder_dim, case.dtype, case.inputs.hidden
    weight, bias = case.normal(dim, config.in_channels, *patch), case.normal(dim)
    position = sinusoid_table(config.num_tokens, dim).to(case.device)
    host_table, view, affine = position.cpu()[None], pixels.view, pixels.affine()
    doubles = [x.detach().double().requires_grad_(x.requires_grad) for x in (weight, bias)]

    def published() -> Tensor:
        x = F.conv3d(case.inputs.clip.to(dtype), weight, bias, stride=patch).flatten(2).transpose(1, 2)
        x = x + host_table.type_as(x).to(x.device).clone()
        return x[~hidden].reshape(x.shape[0], -1, dim)

    def rewrite() -> Tensor:
        kept = rewrites.tube_mask_gather(view(), index, patch, affine, dtype)
        return rewrites.embed_tokens(kept, index, weight, bias, position)

    def truth() -> Tensor:
        kept = rewrites.tube_mask_gather(pixels.exact, index, patch, pixels.affine(torch.float64), torch.float64)
        return rewrites.embed_tokens(kept.to(dtype).double(), index, doubles[0], doubles[1], position)

    # pixels, weight and bias, embedded tokens; forward: also the table; backward: the same with gradients for results
    moved = pixels.bytes(index) + dtype.itemsize * (weight.numel() + dim + index.numel() * dim)
    return Workload(
        {
            PUBLISHED: Variant(published, [weight, bias]),
            REWRITE: Variant(rewrite, [weight, bias], inexact=pixels.inexact),
            OURS: Variant(
                lambda: vk.embed_tokens(
                    pixels.clip, index, weight, bias, position, layout=pixels.layout, normalize=pixels.stats
                ),
                [weight, bias],
            ),
        },
        moved + (position.nbytes if case.direction == "forward" else 0),
        Variant(truth, doubles),
    )


def _patch_targets(case: OpCase) -> Workload:
    pixels, patch, inputs = Pixels(case, targets=True), case.inputs.config.patch, case.inputs
    index = inputs.plan().predicted
    in_loss = inputs.hidden & ~inputs.not_decoded
    view, affine = pixels.view, pixels.affine()
    exact = pixels.affine(torch.float64)
    return Workload(
        {
            PUBLISHED: Variant(lambda: published_target(inputs.clip, patch)[in_loss].reshape(*index.shape, -1)),
            REWRITE: Variant(lambda: rewrites.patch_targets(view(), index, patch, affine), inexact=pixels.inexact),
            OURS: Variant(
                lambda: vk.patch_targets(pixels.clip, index, patch, layout=pixels.layout, denormalize=pixels.stats)
            ),
        },
        pixels.bytes(index) + 4 * index.numel() * inputs.config.patch_dim,
        Variant(lambda: rewrites.patch_targets(pixels.exact, index, patch, exact)),
    )


def _masked_patch_loss(case: OpCase) -> Workload:
    pixels, patch, inputs = Pixels(case, targets=True), case.inputs.config.patch, case.inputs
    index, hidden, not_decoded = inputs.plan().predicted, inputs.hidden, inputs.not_decoded
    # The published code predicts every decoded token, and gives tokens that the encoder sees weight zero.
    decoded = case.normal(inputs.batch_size, inputs.plan().decoded.shape[1], inputs.config.patch_dim)
    in_loss = hidden[~not_decoded].reshape(inputs.batch_size, -1)
    pred = decoded.detach()[in_loss].reshape(*index.shape, -1).requires_grad_(decoded.requires_grad)
    double = pred.detach().double().requires_grad_(pred.requires_grad)
    view, affine = pixels.view, pixels.affine()
    exact = pixels.affine(torch.float64)
    pixels.check_integers(index)
    # predictions and pixels; backward: also the gradient
    moved = pixels.bytes(index) + pred.nbytes * (1 if case.direction == "forward" else 2)
    return Workload(
        {
            PUBLISHED: Variant(
                lambda: published_loss(decoded, inputs.clip, hidden, not_decoded, patch),
                [decoded],
                lambda found: found[in_loss].reshape(pred.shape) if found.ndim else found,
            ),
            REWRITE: Variant(
                lambda: rewrites.masked_patch_loss(pred, view(), index, patch, affine), [pred], inexact=pixels.inexact
            ),
            OURS: Variant(
                lambda: vk.masked_patch_loss(
                    pred, pixels.clip, index, patch, layout=pixels.layout, denormalize=pixels.stats
                ),
                [pred],
            ),
        },
        moved,
        Variant(lambda: rewrites.masked_patch_loss(double, pixels.exact, index, patch, exact), [double]),
    )


def _warp_clips(case: OpCase) -> Workload:
    """Crops of whole frames that are turned by up to 21°, as RandAugment of magnitude 7 does before it crops."""
    inputs, size = case.inputs, case.inputs.config.image_size
    number = [b // CROPS_PER_SOURCE for b in range(inputs.batch_size)]
    sources = [inputs.sources[n] for n in number]
    boxes = [(0, 0, *frames.shape[1:3]) for frames in sources]
    clips = vk.crop_clips(inputs.sources, number, boxes, [False] * len(number), size)
    matrix = torch.stack([_turned_crop(b, inputs) for b in range(inputs.batch_size)]).to(case.device, torch.float32)
    result = math.prod(clips.shape) * matrix.element_size()
    return Workload(
        {
            REWRITE: Variant(lambda: rewrites.warp_clips(sources, matrix, size, FILL), inexact=SAMPLING_ERROR),
            OURS: Variant(lambda: vk.warp_clips(clips, matrix, FILL), inexact=SAMPLING_ERROR),
        },
        clips.frames.nbytes + matrix.nbytes + result,  # frames once; what no clip needs of them is little
        Variant(lambda: rewrites.warp_clips(sources, matrix, size, FILL, torch.float64)),
    )


def _turned_crop(b: int, inputs: Inputs) -> Tensor:
    """The matrix (2, 3) of clip b, float64."""
    (top, left, *box), (height, width) = inputs.boxes[b], inputs.config.image_size
    crop = torch.tensor([[box[1] / width, 0, left], [0, box[0] / height, top], [0, 0, 1]], dtype=torch.float64)
    v, u = (side / 2 for side in inputs.sources[0].shape[1:3])
    angle = math.radians(21 * (2 * b / max(1, inputs.batch_size - 1) - 1))
    cos, sin = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[cos, -sin, u - cos * u + sin * v], [sin, cos, v - sin * u - cos * v]], dtype=torch.float64)
    return turn @ crop


BOTH = ("forward", "backward")
FILL = 128  # of RandAugment, as published
UNPUBLISHED = (REWRITE, COMPILED, OURS)  # the published code has no such step, or its loader takes it
PIXEL_OPS = (
    Op("tube_mask_gather", _tube_mask_gather, clips=(*CLIPS, CROPS[0]), variants=UNPUBLISHED),
    Op("tube_mask_gather", _tube_mask_gather_backward, ("backward",), CLIPS[1:], variants=UNPUBLISHED),
    Op("embed_tokens", _embed_tokens, BOTH, CLIPS),
    Op("embed_tokens", _embed_tokens, BOTH, CROPS[:1], variants=UNPUBLISHED),
    Op("patch_targets", _patch_targets, clips=CLIPS),
    Op("patch_targets", _patch_targets, clips=CROPS[:1], variants=UNPUBLISHED),
    Op("masked_patch_loss", _masked_patch_loss, BOTH, CLIPS),
    Op("masked_patch_loss", _masked_patch_loss, BOTH, CROPS, variants=UNPUBLISHED),
    # The rewrite is a loop over clips, which compiling would unroll.
    Op("warp_clips", _warp_clips, floating=False, variants=(REWRITE, OURS)),
)
