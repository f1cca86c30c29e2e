"""Sections of options for contrastive pre-training: captioned clips, masks, the two towers, the loss, the optimizer.

Defaults are those of LongViViT (arXiv 2312.07395) where it tells them: frames at one per second, mean pooling, CLIP's
loss. It does not tell its optimizer.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..data import Mixture
from ..data.captioned import CaptionedDataset, split_kinds
from ..data.sources.captions import CAPTIONS_HELP
from ..interop.checkpoint import read_weights
from ..interop.video_text import init_video_text
from ..interop.video_tower import init_video_tower
from ..models.config import ClipConfig
from ..models.dual_encoder import TEMPERATURES, VideoTextModel
from ..models.text_tower import TEXT_POOLS
from ..models.video_tower import POOLS
from .config import Config, Section, option
from .options import BackboneOptions, ClipOptions, RunOptions
from .schedule import ScheduleOptions
from .sources import read_source

Datasets = tuple[CaptionedDataset | None, CaptionedDataset | None]  # of videos and of images


@dataclass(frozen=True)
class ContrastData(ClipOptions):
    """The captioned videos and images, and the clips cut from them."""

    data: str = option("", CAPTIONS_HELP, free=True)
    root: str = option("", "folder that relative paths in --data and --eval-data are joined to", free=True)
    eval_data: str = option("", "captions to evaluate on, in one of the forms of --data", free=True)
    sampling: str = option(
        "fps",
        "frames of a clip; fps: --fps of them a second, or spread over a longer video; uniform: spread over the video; "
        "strided: --frame-stride apart, as in pre-training; dense: as in fine-tuning",
        choices=CaptionedDataset.samplings,
    )
    fps: float = option(1.0, "frames of a clip per second of the video, for --sampling fps", least=0)
    hflip: bool = option(False, "flip half of the clips horizontally; captions that say left or right become wrong")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fps:
            raise ValueError("fps must be positive, got 0.0")

    def pairs(self, source: str) -> tuple[Mixture | None, Mixture | None]:
        """Read the videos and the images of one of `sources`, each with its captions.

        Args:
            source: `data`, for example.

        Returns:
            The videos and the images; None for a kind that the source does not have.

        Raises:
            FileNotFoundError: as `read_captions`.
            ValueError: `source` is empty; or as `read_captions` and `read_mixture`.
        """
        if not source:
            raise ValueError(f"data is empty: name a {CAPTIONS_HELP}")
        return split_kinds(read_source(source, self.sources(), self.root, captioned=True))

    def clip_options(self, seed: int) -> dict[str, Any]:
        """All that the clip of a sample depends on, as arguments of `CaptionedDataset`."""
        return self._clips(seed) | {"sampling": self.sampling, "fps": self.fps, "hflip": self.hflip}

    def datasets(self, kinds: tuple[Mixture | None, Mixture | None], seed: int, **changes: Any) -> Datasets:
        """Make the data sets of videos and of images.

        Args:
            kinds: as `pairs` returns them.
            seed: seed of clips, crops and captions.
            **changes: further arguments of `CaptionedDataset`.

        Returns:
            A data set for each kind that there is.

        Raises:
            ValueError: options do not fit together.
        """
        options = self.clip_options(seed) | changes
        made = [
            None if mixture is None else CaptionedDataset(mixture, **(options | frames))
            for mixture, frames in zip(kinds, ({}, {"num_frames": 1}), strict=True)
        ]
        return made[0], made[1]


@dataclass(frozen=True)
class ContrastMasks(Section):
    """The tokens that the video tower sees, drawn at random over the whole clip."""

    mask_ratio: float = option(0.75, "share of tokens of videos that are hidden; they are never read", least=0, below=1)
    image_mask_ratio: float = option(0.0, "share of tokens of images that are hidden", least=0, below=1)

    def ratio(self, is_image: bool) -> float:
        """The share of tokens hidden from a batch of one kind."""
        return self.image_mask_ratio if is_image else self.mask_ratio


@dataclass(frozen=True)
class VideoTowerOptions(BackboneOptions):
    """The video tower, and how a step computes its blocks."""

    patch_size: int = option(0, "height and width of a token in pixels; 0: of the model", least=0)
    tubelet_size: int = option(0, "frames of a token; 0: of the model (internvideo2: always 1)", least=0)
    pool: str = option(
        "auto", "row of a clip; auto: mean of its tokens, of internvideo2 attention", choices=("auto", *POOLS)
    )
    train: str = option(
        "all",
        "what is trained of the video tower: all; last:K: its last K blocks, and what follows them; head: what follows "
        "its blocks; none: its projection only",
    )
    video_features: str = option(
        "",
        "folder of the features of the video tower, which --train none freezes, for this and later runs: each "
        "video then has one clip, the same in every epoch; empty: clips are drawn, and seen, anew",
        free=True,
    )
    embed_dim: int = option(512, "width of the space of both projections", least=1)

    def tower_config(self, data: ContrastData) -> ClipConfig:
        """The configuration of the video tower for the clips of `data`.

        Args:
            data: gives the size of the clips.

        Returns:
            The configuration.

        Raises:
            ValueError: sizes do not fit together.
        """
        named: dict[str, Any] = {"patch_size": self.patch_size, "tubelet_size": self.tubelet_size}
        sizes = {name: size for name, size in named.items() if size}
        return self.config(data, **sizes)


@dataclass(frozen=True)
class TextTowerOptions(Section):
    """The text tower."""

    text_model: str = option(
        "",
        "folder of a text encoder of transformers, with its tokenizer; without weights it is random, of the size that "
        "its config.json tells",
        free=True,  # a run continues with the weights of its checkpoint
    )
    text_pool: str = option("mean", "row of a caption; mean of its tokens, or the first one", choices=TEXT_POOLS)
    max_tokens: int = option(32, "tokens of a caption; a longer one is cut, and counted", least=1)
    freeze_text: bool = option(False, "train nothing of the text tower and its projection; its features are kept")
    text_features: str = option(
        "",
        "folder of the features of all captions by a frozen text tower, for this and later runs; empty: "
        "text_features in the output folder",
        free=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_features and not self.freeze_text:
            raise ValueError(
                f"text_features '{self.text_features}' needs freeze_text: the features of a trained tower change"
            )


@dataclass(frozen=True)
class LossOptions(Section):
    """The contrastive loss."""

    loss: str = option(
        "clip", "clip: softmax in both directions; siglip: sigmoid of each pair", choices=("clip", "siglip")
    )
    temperature: str = option(
        "auto",
        "how the learned temperature starts and is limited, by whose it is; auto: as --loss",
        choices=("auto", *TEMPERATURES),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature != "auto" and (self.temperature == "siglip") != (self.loss == "siglip"):
            raise ValueError(
                f"temperature '{self.temperature}' does not go with loss '{self.loss}': siglip's has a bias, "
                "which clip's softmax would cancel"
            )

    @property
    def of_temperature(self) -> str:
        """A key of TEMPERATURES."""
        return self.loss if self.temperature == "auto" else self.temperature


@dataclass(frozen=True)
class FusionOptions(Section):
    """InternVideo2's second stage: last layers of the text model that also read the video, and what they learn."""

    fusion_layers: int = option(
        0,
        "last layers of --text-model, a BERT, that also read the video, to tell pairs from others and to fill in "
        "hidden words; 0: the contrastive loss alone (published: 5 of 24)",
        least=0,
    )
    contrast_weight: float = option(1.0, "weight of the contrastive loss", least=0)
    matching_weight: float = option(1.0, "weight of telling pairs from hard negatives", least=0)
    words_weight: float = option(1.0, "weight of filling in hidden words", least=0)
    word_ratio: float = option(0.5, "share of the words of a caption that are hidden", least=0, below=1)
    negatives: str = option(
        "local",
        "pairs that hard negatives are drawn among; local: of a device, and of a micro-batch, as published; global: of "
        "all devices",
        choices=("local", "global"),
    )


@dataclass(frozen=True)
class ContrastOptimizer(ScheduleOptions):
    """Pairs of a step, epochs, and the optimizer."""

    batch_size: int = option(64, "pairs per device and step", least=1)
    micro_batch: int = option(
        0,
        "pairs whose activations are in memory at a time: the towers run twice, and gradients are those of the whole "
        "batch; 0: all of batch_size, once",
        least=0,
    )
    epochs: int = option(10, "passes over the data", least=1)
    warmup_epochs: int = option(1, "epochs of linear warm-up; must be fewer than epochs", least=0)
    lr: float = option(2.5e-5, "learning rate for 256 pairs per step; it is scaled by pairs / 256", least=0)
    final_lr: float = option(2.5e-7, "final learning rate, scaled in the same way", least=0)
    weight_decay: float = option(0.05, "weight decay of matrices; biases, norms and positions have none", least=0)
    beta2: float = option(0.98, "second AdamW coefficient; the first is 0.9", least=0, below=1)
    clip_grad: float = option(3.0, "largest gradient norm; 0 does not clip", least=0)
    ema_decay: float = option(
        0.0, "decay per step of an average of the weights, which is evaluated and saved too; 0: none", least=0, below=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}")

    @property
    def samples(self) -> int:
        """Pairs of an optimizer step on one device."""
        return self.batch_size

    @property
    def part_size(self) -> int:
        """Pairs that the towers run on at a time."""
        return self.micro_batch or self.batch_size

    @property
    def parts(self) -> int:
        """Parts of a step."""
        return self.batch_size // self.part_size


@dataclass(frozen=True)
class ContrastRun(RunOptions):
    """The output, start, end and reports of a run."""

    init: str = option(
        "",
        "weights to start from: a run of contrast, of pretrain or of align, published weights, or an image model of "
        "transformers",
        free=True,
    )

    def _load(self, model: nn.Module, source: Path) -> str:
        """Load a dual encoder, or weights of a video tower alone; its projection and the text tower are then new."""
        assert isinstance(model, VideoTextModel)
        strict, names = not self.init_partial, read_weights(source).keys()
        if all(any(name.startswith(tower) for name in names) for tower in ("vision_encoder.", "text_encoder.")):
            return init_video_text(model, source, strict)
        note = init_video_tower(model.vision_encoder, source, strict)
        return note or f"all weights of the video tower are from {source}"


@dataclass(frozen=True)
class ContrastConfig(Config):
    """The options of contrastive pre-training."""

    data: ContrastData = field(default_factory=ContrastData)
    masks: ContrastMasks = field(default_factory=ContrastMasks)
    model: VideoTowerOptions = field(default_factory=VideoTowerOptions)
    text: TextTowerOptions = field(default_factory=TextTowerOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    fusion: FusionOptions = field(default_factory=FusionOptions)
    optimizer: ContrastOptimizer = field(default_factory=ContrastOptimizer)
    run: ContrastRun = field(default_factory=ContrastRun)

    def __post_init__(self) -> None:
        if self.run.eval_every and not self.data.eval_data:
            raise ValueError(f"eval_every {self.run.eval_every} needs eval_data: name the captions to evaluate on")
        masked = self.masks.mask_ratio or self.masks.image_mask_ratio
        if self.model.video_features and (self.model.train != "none" or masked):
            raise ValueError(
                f"video_features '{self.model.video_features}' needs train none, mask_ratio 0 and image_mask_ratio 0: "
                "what is trained or masked has other features in every step"
            )
        if self.fusion.fusion_layers and self.text.freeze_text:
            raise ValueError(
                f"freeze_text does not go with fusion_layers {self.fusion.fusion_layers}: layers of the text model "
                "learn to read the video"
            )
