"""Everything a pre-training run is defined by. The command line is made from this class, field by field."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..data import DEFAULT_READER
from ..models import VideoMAEConfig, get_config

# Fields that may differ between a run and its continuation: they change nothing that is computed.
# Where the videos lie may change as well: a checkpoint knows them by `Mixture.fingerprint`.
_FREE_ON_RESUME = {"data", "root", "list_format", "output", "resume", "workers"}
_FREE_ON_RESUME |= {"max_bad_share", "log_every", "save_every", "keep_checkpoints", "max_steps"}


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class PretrainConfig:
    """A pre-training run. Defaults are the published ViT-B recipe (scripts/pretrain of VideoMAE V2)."""

    data: str = _field("", "annotation file ('path start total' or 'path label' lines) or a folder of videos")
    root: str = _field("", "prefix of relative paths in the annotation file; default: where the first one is found")
    list_format: str = _field("auto", "form of the annotation file: auto, v2, v1 or paths")
    output: str = _field("", "folder of the run: log, checkpoints, pictures, weights")
    resume: bool = _field(False, "continue from the last checkpoint in the output folder")

    model: str = _field("base", "small, base, large, huge or giant")
    num_frames: int = _field(16, "frames of a clip")
    image_size: int = _field(224, "height and width of a clip in pixels")
    attention: str = _field("sdpa", "attention backend: sdpa, flash-attn or xformers")
    activation_checkpointing: bool = _field(False, "repeat each block in backward instead of keeping its activations")
    compile: bool = _field(False, "compile the model with torch.compile; the first step then takes minutes")
    decoder_context: str = _field("published", "'published', or 'disjoint': mask tokens never overlap visible ones")
    mask: str = _field("tube", "tube or random")
    mask_ratio: float = _field(0.9, "share of tokens hidden from the encoder")
    decoder_mask: str = _field("running_cell", "running_cell, random or none")
    decoder_mask_ratio: float = _field(0.5, "share of tokens that are not decoded")

    reader: str = _field(DEFAULT_READER, "video reader: av, decord or torchcodec")
    short_side: int = _field(0, "scale larger videos down to this side while decoding, which changes pixels; 0: off")
    max_bad_share: float = _field(0.2, "stop when more than this share of the videos cannot be read")
    frame_stride: int = _field(4, "frames between two frames of a clip (the published sampling rate)")
    crops_per_video: int = _field(4, "crops cut from each decoded clip (repeated augmentation)")
    crop: str = _field("multi-scale", "boxes of crops: multi-scale (as published) or random-resized")
    hflip: bool = _field(False, "show half of the crops flipped (published pre-training does not)")
    resize: str = _field("antialias", "antialias, bilinear, or pillow: the published pixels, bit for bit")
    workers: int = _field(8, "processes that decode videos; 0 decodes in the training process")

    epochs: int = _field(200, "passes over the data")
    warmup_epochs: int = _field(20, "epochs of linear warm-up; they may be fractions of the run only")
    batch_size: int = _field(32, "videos per device and step; clips are this times crops_per_video")
    lr: float = _field(1e-3, "learning rate for 256 videos per step; it is scaled by videos / 256")
    final_lr: float = _field(1e-5, "final learning rate, scaled in the same way")
    weight_decay: float = _field(0.05, "of matrices; biases, norms and the mask token have none")
    beta2: float = _field(0.95, "second AdamW coefficient; the first is 0.9")
    clip_grad: float = _field(0.0, "largest gradient norm; 0 does not clip (published: 0.02 for giant)")
    precision: str = _field("auto", "bf16, fp32, or auto: bf16 on a GPU, fp32 on a CPU")
    seed: int = _field(0, "of weights, data order, crops and masks")

    log_every: int = _field(10, "steps between log lines; losses are read from the device only then")
    save_every: int = _field(0, "steps between checkpoints; 0: once per epoch")
    keep_checkpoints: int = _field(2, "checkpoints kept; 0 keeps all")
    max_steps: int = _field(0, "stop, with a checkpoint, after this many steps in all; 0 runs to the end")

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ValueError(f"precision must be auto, bf16 or fp32, got '{self.precision}'")
        for name in ("epochs", "batch_size", "log_every", "crops_per_video"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        whole = ("warmup_epochs", "workers", "save_every", "keep_checkpoints", "max_steps")
        for name in (*whole, "lr", "final_lr", "weight_decay", "clip_grad"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        if self.mask == "none":
            raise ValueError("mask 'none' hides nothing, so no token is left to learn from: use tube or random")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be less than epochs {self.epochs}")

    def model_config(self) -> VideoMAEConfig:
        """The model's configuration; raises ValueError for sizes that do not fit together."""
        return get_config(
            self.model,
            num_frames=self.num_frames,
            image_size=(self.image_size, self.image_size),
            attention=self.attention,
            activation_checkpointing=self.activation_checkpointing,
            decoder_context=self.decoder_context,
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def check_continues(self, path: Path) -> None:
        """Raise ValueError naming every field in which this run differs from the saved one at `path`."""
        saved = json.loads(path.read_text())
        names = [f.name for f in fields(self) if f.name not in _FREE_ON_RESUME]
        differing = [
            f"{n}: was {saved.get(n)!r}, now {getattr(self, n)!r}" for n in names if saved.get(n) != getattr(self, n)
        ]
        if differing:
            raise ValueError("a run continues with the settings it began with, but " + "; ".join(differing))


# A few minutes on two CPU cores: real clips, small enough to watch the loss fall.
DEMO = PretrainConfig(
    model="small",
    image_size=112,
    frame_stride=2,
    workers=1,
    batch_size=2,
    epochs=80,
    warmup_epochs=5,
    lr=1e-3 * 256 / 2,
    final_lr=1e-5 * 256 / 2,
    log_every=5,
    save_every=50,
)
