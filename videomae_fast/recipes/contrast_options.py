"""Sections of options for contrastive pre-training: captioned clips, masks, the two towers, the losses.

Defaults are those of LongViViT (arXiv 2312.07395) where it tells them: frames at one per second, mean pooling, CLIP's
loss.
"""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..data import Mixture
from ..data.captioned import CaptionedDataset, split_kinds
from ..data.sources.captions import CAPTIONS_HELP
from ..models.config import ClipConfig, VideoMAEConfig
from ..models.dual_encoder import TEMPERATURES
from ..models.families import SIZES
from ..models.text_tower import TEXT_POOLS
from ..models.video_tower import POOLS
from .config import Section, option
from .options import BackboneOptions, ClipOptions
from .sources import read_source

# Of `contrast --demo`; no weights are published for it.
TOWERS: Mapping[str, ClipConfig] = ChainMap(SIZES, {"nano": VideoMAEConfig(128, 4, 4, 64, 1)})  # type: ignore[arg-type]

Datasets = tuple[CaptionedDataset | None, CaptionedDataset | None]  # of videos and of images


@dataclass(frozen=True)
class ContrastData(ClipOptions):
    """The captioned videos and images, and the clips cut from them."""

    conversations: ClassVar[bool] = False  # whether sources may be conversations, too

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
            FileNotFoundError: as `read_mixture`.
            ValueError: `source` is empty; or as `read_mixture`.
        """
        if not source:
            raise ValueError(f"data is empty: name a {type(self).__dataclass_fields__['data'].metadata['help']}")
        found = read_source(source, self.sources(), self.root, captioned=True, conversations=self.conversations)
        return split_kinds(found)

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
class TowerOptions(BackboneOptions):
    """A video tower, and how a step computes its blocks."""

    sizes: ClassVar[Mapping[str, ClipConfig]] = TOWERS
    model: str = option(
        "base", "size of the video tower; nano: that of the demo, 4 blocks of width 128", choices=TOWERS
    )
    patch_size: int = option(0, "height and width of a token in pixels; 0: of the model", least=0)
    tubelet_size: int = option(
        0, "frames of a token; 0: of the model (internvideo2: 1; with more it takes no images)", least=0
    )
    pool: str = option(
        "auto", "row of a clip; auto: mean of its tokens, of internvideo2 attention", choices=("auto", *POOLS)
    )

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
class VideoTowerOptions(TowerOptions):
    """The video tower, and how a step computes its blocks."""

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
class AudioTowerOptions(Section):
    """The audio tower."""

    audio_model: str = option(
        "",
        "file of BEATs: the last layers of the text model also read the sound of videos; it is frozen",
        free=True,  # a run continues with the weights of its checkpoint
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
