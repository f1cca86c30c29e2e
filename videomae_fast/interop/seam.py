"""A seam: one method of another library's module that can be replaced on an instance, and restored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

_MARK = "_videomae_fast"


@dataclass(frozen=True)
class Seam:
    """Which method is replaced, in which class, by what, and how to try it."""

    op: str  # what `fuse(ops=…)` calls it
    class_name: str  # of the module, or of a class it derives from
    package: str  # that class's top-level package, or "" for any: research code is copied around
    needs: Mapping[str, type | tuple[type, ...]]  # dotted attributes that the replacement reads, and what they must be
    forward: Callable[..., Any]  # the replacement, its first argument the module
    example: Callable[[Any], tuple[Any, ...]]  # arguments of a small call, for verification
    tested: str  # versions that the seam was tested with
    method: str = "forward"
    tables: tuple[str, ...] = ()  # plain position tensors that become buffers, so that they follow the module

    def original_class(self, module: nn.Module) -> Any:
        """Find the seam's class among the bases of the module's class (FSDP2 derives a class of its own).

        Args:
            module: any module.

        Returns:
            The class, or None.
        """
        for cls in type(module).__mro__:
            if cls.__name__ == self.class_name and self.package in ("", cls.__module__.split(".")[0]):
                return cls
        return None

    def check(self, module: nn.Module) -> None:
        """Check that a module can be fused.

        Args:
            module: a module of the seam's class.

        Raises:
            TypeError: an attribute that the replacement reads is missing or of another type, or the method is not the
                class's own.
        """
        problems = [problem for name, kind in self.needs.items() if (problem := _problem(module, name, kind))]
        if problems:
            raise TypeError(
                f"{type(module).__name__} cannot be fused for {self.op!r}: {'; '.join(problems)}. Looked for "
                f"{', '.join(self.needs)}, as in {self.tested}"
            )
        if self.method in module.__dict__ and not is_attached(module):
            raise TypeError(
                f"{type(module).__name__}.{self.method} has been replaced on this instance by something else: fuse "
                "the model first (before accelerate.prepare with mixed precision, for example)"
            )

    def __deepcopy__(self, memo: Any) -> "Seam":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a fused model cannot be pickled: save its state_dict(), or unfuse(model) first")


@dataclass(frozen=True)
class _Attachment:
    seam: Seam
    tables: dict[str, Tensor]  # the module's own, to be restored


def attach(module: nn.Module, seam: Seam) -> None:
    """Replace the method on this instance, and make its position tables buffers that no state_dict holds.

    Args:
        module: a module that passed `seam.check`; changed in place.
        seam: the method and its replacement.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    tables = {name: module.__dict__.pop(name) for name in seam.tables if name in module.__dict__}
    for name, table in tables.items():
        module.register_buffer(name, table.to(device), persistent=False)
    module.__dict__[_MARK] = _Attachment(seam, tables)
    for name, function in _methods(seam).items():
        module.__dict__[name] = MethodType(function, module)


def check_unwrapped(module: nn.Module) -> None:
    """Check that the method that `attach` replaced is still the replacement.

    Args:
        module: a fused module.

    Raises:
        TypeError: the method has been wrapped since.
    """
    seam = module.__dict__[_MARK].seam
    if getattr(module.__dict__[seam.method], "__func__", None) is not seam.forward:
        raise TypeError(
            f"{type(module).__name__}.{seam.method} has been wrapped on this instance since it was fused: undo that "
            "first (by accelerator.unwrap_model(model, keep_fp32_wrapper=False), for example)"
        )


def detach(module: nn.Module) -> None:
    """Undo `attach`.

    Args:
        module: a fused module; changed in place.
    """
    attachment: _Attachment = module.__dict__[_MARK]
    for name in (_MARK, *_methods(attachment.seam)):
        del module.__dict__[name]
    for name, table in attachment.tables.items():
        delattr(module, name)
        setattr(module, name, table)


def is_attached(module: nn.Module) -> bool:
    """Whether a module is fused.

    Args:
        module: any module.

    Returns:
        True if a method of this instance is replaced.
    """
    return _MARK in module.__dict__


def position_table(table: Tensor, like: Tensor) -> Tensor:
    """A position table for the ops, with the digits that adding `table.type_as(like)` would see.

    Args:
        table: (1, N, D) floating.
        like: a tensor of the device and dtype wanted.

    Returns:
        (N, D) in the dtype of `like`.
    """
    return table[0].to(device=like.device, dtype=like.dtype)


def example_clip(weight: Tensor, num_tokens: int, image_size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Make two random clips and masks for a small call.

    Args:
        weight: (D, C, τ, p, p), of the patch projection.
        num_tokens: N.
        image_size: (H, W) in pixels.

    Returns:
        Clips (2, C, T, H, W) like `weight`, and boolean masks (2, N) that hide 90 % of the tokens.
    """
    _, channels, tubelet, *patch = weight.shape
    height, width = image_size
    frames = num_tokens // ((height // patch[0]) * (width // patch[1])) * tubelet
    hidden = torch.rand(2, num_tokens, device=weight.device).argsort(1) >= max(1, num_tokens // 10)
    return torch.randn(2, channels, frames, height, width, device=weight.device, dtype=weight.dtype), hidden


def _methods(seam: Seam) -> dict[str, Callable[..., Any]]:
    return {seam.method: seam.forward, "_apply": _apply, "_replicate_for_data_parallel": _replicate}


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """nn.Module._apply (.to, .half, .to_empty, …), but tables change their device only: they keep every digit."""
    type(self)._apply(self, fn, recurse)
    for name, table in self.__dict__[_MARK].tables.items():
        self._buffers[name] = table.to(self._buffers[name].device)  # type: ignore[union-attr]
    return self


def _replicate(self: nn.Module) -> nn.Module:
    """Called by nn.DataParallel to copy a module: binds the methods to the copy, not to the first device's module."""
    replica = type(self)._replicate_for_data_parallel(self)
    for name, function in _methods(self.__dict__[_MARK].seam).items():
        replica.__dict__[name] = MethodType(function, replica)
    return replica


def _problem(module: nn.Module, dotted: str, kind: type | tuple[type, ...]) -> str | None:
    value: Any = module
    for part in dotted.split("."):
        if not hasattr(value, part):
            return f"there is no {dotted}"
        value = getattr(value, part)
    return None if isinstance(value, kind) else f"{dotted} is a {type(value).__name__} of {type(value).__module__}"
