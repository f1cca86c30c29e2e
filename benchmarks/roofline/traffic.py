"""The bytes that an operation needs to move: every needed byte of its inputs and results once.

An operation of PyTorch moves its whole inputs and results, with the exceptions below. For our own ops the table `OURS`
says which inputs are read in part only; an op that is not in the table is an error, never free. A test compares the
table with the `bytes` of the op benchmarks.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from videomae_kernels._custom_op import NAMESPACE
from videomae_kernels.pixels.reference import is_cropped

# Arguments that are only written, or of which only the shape counts.
NOT_READ = {
    **dict.fromkeys(("copy_", "fill_", "zero_", "normal_", "uniform_", "_foreach_copy_", "_foreach_zero_"), "self"),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "rand_like", "randn_like"), "self"),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full"), "self"),
}
# Arguments of which as much is read as is returned.
READ_AS_RETURNED = {"index": "self", "index_select": "self", "gather": "self", "embedding": "weight"}
# In-place operations that touch as much of `self` as they are given.
TOUCHED_AS_GIVEN = {"index_put_": "values", "_index_put_impl_": "values", "index_add_": "source"}
# Declared as written, but written with a gradient scaler only.
NOT_WRITTEN = {"_fused_adamw_": "grads"}

Arguments = Mapping[str, Any]
CropBytes = Mapping[int, int]


class UnknownOpError(NotImplementedError):
    """An op of ours whose bytes nobody has declared."""


def nbytes(*values: Any) -> int:
    """Bytes of all tensors in `values` on the device. Elements that an expanded tensor repeats count once."""
    tensors = (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.device.type != "meta")
    return sum(
        math.prod(size for size, stride in zip(t.shape, t.stride(), strict=True) if stride) * t.element_size()
        for t in tensors
    )


def _pixels(arguments: Arguments, out: Any, crop_bytes: CropBytes) -> int:
    """The pixels of the listed tokens."""
    clip, index = arguments["clip"], arguments["index"]
    if not is_cropped(clip):
        return index.numel() * arguments["shape"][1] * math.prod(arguments["patch"]) * clip[0].element_size()
    if index.shape[1] not in crop_bytes:
        raise ValueError(f"crop_bytes must say how many bytes {index.shape[1]} tokens of each clip are made from")
    return crop_bytes[index.shape[1]]


def _compared_frames(arguments: Arguments, out: Any, crop_bytes: CropBytes) -> int:
    """Two frames of each two neighbouring tokens, of a tensor clip."""
    clip, (batch, channels, frames, height, width) = arguments["clip"], arguments["shape"]
    if is_cropped(clip):
        raise NotImplementedError("the bytes of changed_token_index on crops are not counted: give it a tensor clip")
    compared = 2 * (frames // arguments["patch"][0] - 1)
    return batch * channels * compared * height * width * clip[0].element_size()


def _as_returned(arguments: Arguments, out: Any, crop_bytes: CropBytes) -> int:
    return nbytes(out)


@dataclass(frozen=True)
class Own:
    """An op of ours: the part of the step that it belongs to, and the arguments that it reads in part, by name."""

    part: str = "our kernels"
    partly: Mapping[str, Callable[[Arguments, Any, CropBytes], int]] = field(default_factory=dict)


OURS = {
    "add_drawn_norm": Own("norms"),
    "add_drawn_norm_backward": Own("norms"),
    "add_layer_norm": Own("norms"),
    "alignment_loss": Own(),
    "alignment_loss_backward": Own(),
    "add_rms_norm": Own("norms"),
    "assemble_decoder_tokens": Own(),
    "bias_gelu": Own("GELU"),
    "bias_gelu_backward": Own("GELU"),
    "changed_token_index": Own(partly={"clip": _compared_frames}),
    "contrastive_loss": Own(),
    "contrastive_loss_backward": Own(),
    "gather_tokens": Own(partly={"x": _as_returned}),
    "layer_norm": Own("norms"),
    "layer_norm_backward": Own("norms"),
    "mask_to_index": Own(),
    "masked_patch_loss": Own(partly={"clip": _pixels}),
    "masked_patch_loss_backward": Own(partly={"clip": _pixels}),
    "masked_token_scatter": Own(),
    "patch_targets": Own(partly={"clip": _pixels}),
    "rms_norm": Own("norms"),
    "rms_norm_backward": Own("norms"),
    "running_cell_select": Own(),
    "select_index": Own(),
    "tube_mask_gather": Own(partly={"clip": _pixels}),
    "tube_mask_gather_backward": Own(),
    "warp_clips": Own(),
    "weighted_index": Own(),
}


def own(func: Any) -> Own | None:
    """The entry of an op of ours, None for an operation of PyTorch.

    Raises:
        UnknownOpError: it is ours, but not in OURS.
    """
    if func.namespace != NAMESPACE:
        return None
    name = _name(func)
    if name not in OURS:
        raise UnknownOpError(
            f"the bytes of {NAMESPACE}::{name} are unknown: add it to OURS in benchmarks/roofline/traffic.py"
        )
    return OURS[name]


def needed_bytes(func: Any, args: tuple[Any, ...], kwargs: Arguments, out: Any, crop_bytes: CropBytes) -> int:
    """Bytes that a dispatched operation needs to read and write.

    Args:
        func: the operation, as a TorchDispatchMode gets it.
        args, kwargs: its arguments.
        out: its result.
        crop_bytes: for clips that are crops of larger frames, the bytes of source pixels that the listed tokens of all
            clips are made from, by the number of listed tokens of a clip.

    Raises:
        UnknownOpError: an op of ours that is not in OURS.
    """
    declared, name = func._schema.arguments, _name(func)
    arguments = {argument.name: value for argument, value in zip(declared, args, strict=False)} | dict(kwargs)
    entry = own(func)
    partly = entry.partly if entry else {}
    if name in TOUCHED_AS_GIVEN:
        given = nbytes(arguments[TOUCHED_AS_GIVEN[name]])
        adds = arguments.get("accumulate", name == "index_add_")
        return nbytes({n: v for n, v in arguments.items() if n != "self"}) + given * (2 if adds else 1)
    moved = 0
    for argument in declared:
        value = arguments.get(argument.name)
        if argument.name in partly:
            moved += partly[argument.name](arguments, out, crop_bytes)
        elif READ_AS_RETURNED.get(name) == argument.name:
            moved += nbytes(out)
        elif NOT_READ.get(name) != argument.name:
            moved += nbytes(value)
        written = argument.alias_info is not None and argument.alias_info.is_write
        moved += nbytes(value) if written and NOT_WRITTEN.get(name) != argument.name else 0
    new = [returned.alias_info is None for returned in func._schema.returns]
    results = (out,) if len(new) == 1 else out or ()
    return moved + sum(nbytes(result) for result, is_new in zip(results, new, strict=True) if is_new)


def _name(func: torch._ops.OpOverload) -> str:
    return func._schema.name.split("::")[1]
