"""What a run needs before its first step: output folder, Accelerate, data, and the masks of a batch."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._optional import require
from ..data import ClipDataset, read_mixture
from ..masks import MaskPlan, make_masks
from .checkpoint import list_checkpoints
from .config import PretrainConfig


def prepare_output(config: PretrainConfig) -> Path:
    """Make the output folder; ValueError if it cannot be written or holds a run that is not being continued."""
    if not config.output:
        raise ValueError("output is empty: name a folder for the run")
    output = Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / ".writable").touch()
        (output / ".writable").unlink()
    except OSError as error:
        raise ValueError(f"output folder {output} cannot be written: {error}") from error
    if list_checkpoints(output) and not config.resume:
        raise ValueError(f"output folder {output} holds checkpoints: continue with --resume or choose another folder")
    return output


def make_accelerator(config: PretrainConfig) -> Any:
    """Accelerate as `accelerate launch` configured it, in the precision of the run."""
    accelerate = require("accelerate")
    # Each weight is used once per forward pass, so autocast's cache would only keep copies of them.
    autocast = accelerate.utils.AutocastKwargs(cache_enabled=False)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and torch.cuda.is_available())
    return accelerate.Accelerator(mixed_precision="bf16" if bf16 else "no", kwargs_handlers=[autocast])


def make_dataset(config: PretrainConfig) -> ClipDataset:
    """The clips of the run; errors as `read_annotations` and `ClipDataset`."""
    if not config.data:
        raise ValueError("data is empty: name an annotation file or a folder of videos")
    return ClipDataset(
        read_mixture(config.data, config.root or None, config.list_format),
        num_frames=config.num_frames,
        frame_stride=config.frame_stride,
        size=(config.image_size, config.image_size),
        crops_per_video=config.crops_per_video,
        seed=config.seed,
        crop=config.crop,
        hflip=config.hflip,
        resize=config.resize,
        reader=config.reader,
        short_side=config.short_side,
    )


def plan_for(config: PretrainConfig, sample: Tensor) -> MaskPlan:
    """The masks of the clips with these sample numbers in the run `config`."""
    return make_masks(
        sample,
        config.model_config().grid,
        mask=config.mask,
        mask_ratio=config.mask_ratio,
        decoder_mask=config.decoder_mask,
        decoder_mask_ratio=config.decoder_mask_ratio,
        seed=config.seed,
    )
