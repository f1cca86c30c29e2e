"""fuse(model) puts the library's ops into another library's model, in place; unfuse(model) takes them out again."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from . import timm
from .huggingface import model as huggingface
from .official import model as official
from .seam import Seam, attach, check_unwrapped, detach, is_attached

SEAMS = (*huggingface.SEAMS, *official.SEAMS, *timm.SEAMS)
OPS = tuple(dict.fromkeys(seam.op for seam in SEAMS))
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}

_log = logging.getLogger("videomae_fast")
_Model = TypeVar("_Model", bound=nn.Module)
_Found = list[tuple[str, nn.Module, Seam]]


class FusionError(RuntimeError):
    """A fused model does not compute what the original does; it has been unfused again."""


def fuse(model: _Model, ops: Iterable[str] | None = None, verify: bool = False) -> _Model:
    """Use the library's ops inside an existing model: same weights, outputs and gradients, less work and memory.

    `fuse` finds these modules inside `model`, at any depth (so also below DDP, PEFT or torch.compile): Hugging Face's
    VideoMAEForPreTraining and VideoMAEModel, the published PretrainVisionTransformer (its loss: `pretrain_loss`), and
    timm's PatchDropout. Class, parameters, state_dict, outputs and random numbers stay. Methods are replaced on the
    instances alone, and position tables become buffers that follow the model. Fusing twice changes nothing.

    * "embed_tokens": only visible tokens (B, V) are embedded, not all N.
    * "decode": the decoder's input is written once; targets and loss are one kernel. The forward then also takes a
      MaskPlan, which spares the host sync that counting a boolean mask (B, N) costs. Hugging Face's forward also takes
      a `decode_mask` (B, N), True for tokens that are not decoded.
    * "gather_tokens": token dropping copies the kept rows in one gather.

    Args:
        model: the model, before accelerate.prepare for mixed precision; it is changed in place.
        ops: names out of "embed_tokens", "decode", "gather_tokens"; all by default.
        verify: also run the model with and without the ops on two small random clips, and compare.

    Returns:
        The same model.

    Raises:
        ValueError: `ops` is empty or holds an unknown name.
        TypeError: `model` has no known module; or a known class lacks a needed attribute (the message names it and the
            tested versions); or something else has replaced its method on the instance.
        FusionError: with `verify`, outputs differ by more than rounding. The model is then unfused again.

    References:
        models/videomae/modeling_videomae.py of transformers; models/modeling_pretrain.py of
        OpenGVLab/VideoMAEv2@29eab1e; timm/layers/patch_dropout.py.
    """
    chosen = OPS if ops is None else tuple(ops)
    if not chosen or not set(chosen) <= set(OPS):
        raise ValueError(f"ops must be some of {OPS}, got {chosen}")
    found = _find(model, chosen)
    for _, module, seam in found:
        seam.check(module)
    new = [(name, module, seam) for name, module, seam in found if not is_attached(module)]
    expected = _outputs(new) if verify else []
    for _, module, seam in new:
        attach(module, seam)
    if verify:
        try:
            _compare(new, _outputs(new), expected)
        except Exception:
            for _, module, _ in new:
                detach(module)
            raise
    if new:
        _log.info("fused %s", ", ".join(f"{seam.class_name}.{seam.method}" for _, _, seam in new))
    return model


def unfuse(model: _Model) -> _Model:
    """Undo `fuse` exactly; a model that is not fused stays as it is.

    Args:
        model: the model, or a wrapper of it; changed in place.

    Returns:
        The same model.

    Raises:
        TypeError: a replaced method has been wrapped since; undo that first. Nothing is changed then.
    """
    fused = [module for module in model.modules() if is_attached(module)]
    for module in fused:
        check_unwrapped(module)
    for module in fused:
        detach(module)
    return model


def _find(model: nn.Module, ops: tuple[str, ...]) -> _Found:
    chosen = [seam for seam in SEAMS if seam.op in ops]
    modules = list(model.named_modules())
    found = [(name, module, seam) for name, module in modules for seam in chosen if seam.original_class(module)]
    if not found:
        known = ", ".join(f"{seam.class_name} ({seam.tested})" for seam in chosen)
        raise TypeError(f"nothing in this {type(model).__name__} can be fused: looked for {known}")
    return found


def _outputs(found: _Found) -> list[list[Tensor]]:
    """The tensors that a small call of each module returns, with the same random numbers every time."""
    results = []
    for _, module, seam in found:
        devices = {p.device for p in module.parameters() if p.is_cuda}
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(0)
            arguments = seam.example(module)
            call: Any = module if seam.method == "forward" else getattr(module, seam.method)
            result = call(*arguments)
        leaves = tree_leaves(dict(result) if isinstance(result, Mapping) else result)
        results.append([leaf for leaf in leaves if isinstance(leaf, Tensor)])
    return results


def _compare(found: _Found, results: list[list[Tensor]], expected: list[list[Tensor]]) -> None:
    for (name, module, seam), ours, wanted in zip(found, results, expected, strict=True):
        what = f"{name or type(module).__name__} ({seam.class_name})"
        if len(ours) != len(wanted):
            raise FusionError(f"{what}: the fused model returns {len(ours)} tensors, the original {len(wanted)}")
        for number, (x, y) in enumerate(zip(ours, wanted, strict=True)):
            if x.shape != y.shape or x.dtype != y.dtype:
                raise FusionError(
                    f"{what}: output {number} is {x.dtype} {tuple(x.shape)}, the original's {y.dtype} {tuple(y.shape)}"
                )
            difference = float((x.double() - y.double()).norm() / y.double().norm().clamp_min(1e-12))
            if not difference <= TOLERANCE.get(x.dtype, 0.0):
                raise FusionError(f"{what}: output {number} differs from the original's by {difference:.1e} (relative)")
