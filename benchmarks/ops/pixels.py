"""The clip of a benchmark case, in the form that our ops and the rewrites take it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from benchmarks.baselines.rewrites import Affine
from benchmarks.ops.workload import Case

INDEX_BYTES = 8


@dataclass(frozen=True)
class Pixels:
    """The clip of a case as our ops and the rewrites take it, and what brings its pixels to the values wanted."""

    case: Case
    targets: bool  # whether values in [0, 1] are wanted, or normalised ones

    @cached_property
    def clip(self) -> Tensor:
        return self.case.inputs.frames if self.is_uint8 else self.case.inputs.clip

    @cached_property
    def view(self) -> Tensor:
        """The clip as (B, C, T, H, W)."""
        return self.clip.permute(0, 4, 1, 2, 3) if self.is_uint8 else self.clip

    @property
    def is_uint8(self) -> bool:
        return self.case.clip.startswith("uint8")

    @property
    def layout(self) -> str:
        return self.case.clip.split()[1]

    @property
    def stats(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(mean, std) for our ops: to normalise with, or that the clip was normalised with."""
        config = self.case.inputs.config
        return None if self.is_uint8 == self.targets else (config.pixel_mean, config.pixel_std)

    def affine(self, dtype: torch.dtype = torch.float32) -> Affine | None:
        """The same for the rewrites; None if the clip holds the values that are wanted."""
        if self.stats is None and not self.is_uint8:
            return None
        unit = 1 / 255 if self.is_uint8 else 1.0
        mean, std = (torch.tensor(x, dtype=torch.float64) for x in self.stats or ((0.0,) * 3, (1.0,) * 3))
        scale, shift = (std * unit, mean) if self.targets else (unit / std, -mean / std)
        return tuple(x.to(self.case.device, dtype).view(-1, 1, 1, 1) for x in (scale, shift))  # type: ignore

    def bytes(self, index: Tensor) -> int:
        """Of the listed tokens' pixels and of the list."""
        return index.numel() * (self.case.inputs.config.token_values * self.clip.element_size() + INDEX_BYTES)
