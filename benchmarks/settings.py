"""The settings of the benchmark suites: pytest's options, and the defaults of a GPU and of a CPU."""

from argparse import Namespace
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
import torch

from benchmarks.align.sizes import ALIGN_SIZES
from benchmarks.model.steps import PRECISIONS
from videomae_fast.models.config import CONFIGS, VideoMAEConfig

# "tiny" is there to try the suites with: nobody trains it.
SIZES = CONFIGS | {
    "tiny": VideoMAEConfig(24, 2, 2, 16, 2, decoder_depth=2, patch_size=8, num_frames=8, image_size=(32, 32))
}


def add_options(group: pytest.OptionGroup) -> None:
    """The options of the suites. An option that may be repeated replaces its default."""
    sizes = tuple(dict.fromkeys((*SIZES, *ALIGN_SIZES)))
    group.addoption("--size", action="append", choices=sizes, help="model size of the suite; may be repeated")
    group.addoption("--batch-size", type=int, help="clips (default: 128 on a GPU, a few on a CPU); videos for loader")
    group.addoption("--rounds", type=int, help="timed samples of each implementation")
    group.addoption("--precision", action="append", choices=PRECISIONS, help="may be repeated (default: fp32 on a CPU)")
    group.addoption("--mask-ratio", action="append", type=float, help="hidden from the encoder (default: 0.9)")
    group.addoption(
        "--decoder-mask-ratio",
        action="append",
        type=float,
        help="not decoded; 0 for VideoMAE V1, which decodes all that is hidden (default: 0.5 and 0)",
    )
    group.addoption("--videos", type=Path, help="for loader: your list or folder of videos in place of its own")
    group.addoption("--memory-budget", type=float, help="also find the largest batch within so many GiB of a GPU")
    group.addoption(
        "--published-repo", type=Path, help="also measure this checkout of OpenGVLab/VideoMAEv2; needs timm"
    )


@dataclass(frozen=True)
class Settings:
    """The options, with `options.size` and the like still None where they were not given."""

    options: Namespace

    @cached_property
    def device(self) -> torch.device:
        """The GPU if there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def precisions(self, gpu: list[str]) -> list[str]:
        """The precisions asked for, or a suite's own."""
        return self.options.precision or (gpu if self.on_gpu else ["fp32"])

    @property
    def mask_ratios(self) -> list[float]:
        return self.options.mask_ratio or [0.9]

    @property
    def decoder_mask_ratios(self) -> list[float]:
        return self.options.decoder_mask_ratio if self.options.decoder_mask_ratio is not None else [0.5, 0.0]

    def sizes(self, gpu: list[str], cpu: list[str]) -> list[str]:
        """The sizes asked for, or a suite's own."""
        return self.options.size or (gpu if self.on_gpu else cpu)

    def batch_size(self, cpu: int) -> int:
        """Clips per call or step."""
        return self.options.batch_size or (128 if self.on_gpu else cpu)

    def rounds(self, gpu: int, cpu: int) -> int:
        """Timed samples."""
        return self.options.rounds or (gpu if self.on_gpu else cpu)
