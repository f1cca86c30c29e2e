"""Sections of options for classifiers: labelled videos, augmentation, the model, and its optimizer.

Defaults are the published fine-tuning of ViT-B on Kinetics-400 (scripts/finetune/vit_b_k400_ft.sh of VideoMAE V2).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from videomae_kernels import RESIZES, changed_token_index, random_mask_index

from ..data import ClipBatch, ClipDataset, Mixture, number_classes, read_classes, read_mixture
from ..data.augment import BACKENDS, ClipAugmentation, Mixer, clean_clips, parse_rand_augment
from ..data.crops import AREAS, CROP_BOXES
from ..data.sampling import SAMPLINGS
from ..data.sources.classes import CLASSES_HELP
from ..data.views import VIEW_SAMPLINGS, ViewDataset
from ..interop import parse_clip
from ..models import VideoMAEForClassification
from ..models.classify import POSITIONS, PUBLISHED_CLIP
from ..models.config import VideoMAEConfig
from ..models.lora import add_lora
from .config import Section, option
from .options import BackboneOptions, DataOptions, OptimizerOptions

_DROP_STREAM = 4  # of random_mask_index: token dropping draws apart from masks and stochastic depth


@dataclass(frozen=True)
class LabelledData(DataOptions):
    """The labelled videos, and the clips cut from them."""

    classes: str = option("", CLASSES_HELP, free=True)  # free: a checkpoint holds the names of its classes
    sampling: str = option(
        "dense",
        "frames of a clip; dense: about frame_stride apart, as published for Kinetics; uniform: spread over the video, "
        "as published for Something-Something; strided: as in pre-training",
        choices=SAMPLINGS,
    )
    crops_per_video: int = option(2, "clips cut from each decoded video (published num_sample)", least=1)
    crop: str = option("random-resized", "how crop boxes are drawn; random-resized as published", choices=CROP_BOXES)
    crop_area: float = option(0.08, "smallest area of a random-resized crop, as a share of the frame", least=0, below=1)
    hflip: bool = option(True, "flip half of the clips horizontally; turn it off where left and right matter")
    resize: str = option("bilinear", "how crops become clips; bilinear as published", choices=RESIZES)
    allow_empty_classes: bool = option(False, "allow classes without training videos", free=True)

    def labelled_videos(self) -> Mixture:
        """Read the training videos, with their classes numbered.

        Returns:
            The videos; `class_names` has the names.

        Raises:
            ValueError: `data` is empty, a video has no class, or classes do not fit; see `number_classes`.
        """
        if not self.data:
            raise ValueError("data is empty: name a list of videos with labels, or a folder of class folders")
        videos = read_mixture(self.data, self.root or None, self.list_format, labelled=True)
        return number_classes(videos, read_classes(self.classes) if self.classes else (), self.allow_empty_classes)

    def training_clips(self, videos: Mixture, seed: int, augmentation: ClipAugmentation) -> ClipDataset:
        """Make the data set of augmented training clips.

        Args:
            videos: as `labelled_videos` returns them.
            seed: seed of the clips, crops and flips.
            augmentation: cuts the clips.

        Returns:
            The data set.

        Raises:
            ValueError: options do not fit together; see `ClipDataset`.
        """
        return ClipDataset(
            videos,
            crops_per_video=self.crops_per_video,
            hflip=self.hflip,
            sampling=self.sampling,
            augmentation=augmentation,
            crop_areas=(self.crop_area, 1.0) if self.crop == "random-resized" else AREAS,
            **self._clips(seed),
        )

    def evaluation_views(self, class_names: Sequence[str]) -> ViewDataset:
        """The centre view of each video of `eval_data`: its frames are "uniform" or else "dense", as published.

        Args:
            class_names: of the training videos.

        Returns:
            The data set.

        Raises:
            ValueError: a video has no class, or one that is not among `class_names`.
        """
        videos = number_classes(read_mixture(self.eval_data, labelled=True), class_names, allow_empty=True)
        return self.centre_views(videos, self.sampling if self.sampling in VIEW_SAMPLINGS else "dense")


@dataclass(frozen=True)
class AugmentOptions(Section):
    """What becomes of pixels and labels in training."""

    augment: str = option(
        "device", "where RandAugment runs; pillow: in the workers, the published pixels", choices=BACKENDS
    )
    rand_augment: str = option("rand-m7-n4-mstd0.5-inc1", "RandAugment policy; empty for none")
    erasing: float = option(0.25, "probability that a box of a clip becomes noise", least=0)
    mixup: float = option(0.8, "alpha of Mixup; 0: none", least=0)
    cutmix: float = option(1.0, "alpha of CutMix; 0: none", least=0)
    mix_probability: float = option(1.0, "probability that a batch is mixed", least=0)
    mix_switch: float = option(0.5, "probability of CutMix where Mixup is possible too", least=0)
    smoothing: float = option(0.1, "label smoothing", least=0, below=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("erasing", "mix_probability", "mix_switch"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be a probability in [0, 1], got {getattr(self, name)}")
        if self.rand_augment:
            parse_rand_augment(self.rand_augment)

    def clips(self, config: VideoMAEConfig, seed: int) -> ClipAugmentation:
        """The augmentation of each clip by itself.

        Args:
            config: the model, whose pixel statistics normalise the clips.
            seed: of the run.

        Returns:
            The augmentation.
        """
        mean, std = config.pixel_mean, config.pixel_std
        return ClipAugmentation(self.rand_augment, self.erasing, mean=mean, std=std, seed=seed, backend=self.augment)

    def mixer(self, num_classes: int, seed: int) -> Mixer:
        """The mixtures of clips of a batch, and soft targets.

        Args:
            num_classes: C.
            seed: of the run.

        Returns:
            The mixer.
        """
        return Mixer(
            classes=num_classes,
            mixup=self.mixup,
            cutmix=self.cutmix,
            probability=self.mix_probability,
            switch=self.mix_switch,
            smoothing=self.smoothing,
            seed=seed,
        )


@dataclass(frozen=True)
class ClassifierOptions(BackboneOptions):
    """The classifier, and which part of it is trained."""

    drop_path: float = option(
        0.1,
        "stochastic depth of the last block; rises linearly over depth",
        least=0,
        below=1,
    )
    head_dropout: float = option(0.0, "dropout before the head", least=0, below=1)
    init_scale: float = option(0.001, "factor of the new head's weights", least=0)
    positions: str = option(
        "interpolate",
        "table of positions for clips of another size than 16x224x224; sinusoid: as the published code",
        choices=POSITIONS,
    )
    trained_clip: str = option(
        "",
        "clip whose positions are interpolated, as 16x224x224; empty: the one of --init, or of the published models",
    )
    train: str = option("all", "what is trained: all, head, or last:K for the last K blocks and the head")
    lora_rank: int = option(
        0, "rank of adapters (LoRA, by peft) that are trained, with the head, instead of the matrices; 0: off", least=0
    )
    drop_tokens: str = option(
        "",
        "random:R leaves out a share R of the tokens in training, changed:R the share R that differs least from the "
        "token before in the clip as it is cut, before colours, erasing and mixing; both change results; empty: none",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dropped_share()
        if self.trained_clip:
            parse_clip(self.trained_clip)
        if self.lora_rank and self.train != "all":
            raise ValueError(f"lora_rank {self.lora_rank} says what is trained: leave train at all, got '{self.train}'")

    def classifier(self, config: VideoMAEConfig, num_classes: int) -> VideoMAEForClassification:
        """Build the classifier, with random weights.

        Args:
            config: of `config`.
            num_classes: C.

        Returns:
            The model; every parameter is trained. Without `trained_clip`, its positions are those of the published
            clips.

        Raises:
            ValueError: `trained_clip` does not divide into the model's patches.
        """
        return VideoMAEForClassification(
            config,
            num_classes,
            head_dropout=self.head_dropout,
            init_scale=self.init_scale,
            positions=self.positions,
            trained_clip=parse_clip(self.trained_clip) if self.trained_clip else PUBLISHED_CLIP,
        )

    def choose_trained(self, model: VideoMAEForClassification) -> None:
        """Freeze what is not trained, and add adapters.

        Args:
            model: with the weights that training starts from; changed in place.

        Raises:
            ValueError: `train` is no part of the model.
            ImportError: adapters are wanted, and peft is not installed.
        """
        if self.lora_rank:
            add_lora(model, self.lora_rank)
        else:
            model.freeze(self.train)

    def dropped_share(self) -> float:
        """The share of tokens that training leaves out; 0 for none.

        Raises:
            ValueError: `drop_tokens` has another form, or the share is not in (0, 1).
        """
        if not self.drop_tokens:
            return 0.0
        _, _, share = self.drop_tokens.partition(":")
        try:
            dropped = float(share)
        except ValueError:
            dropped = 0.0
        if self._drops not in ("random", "changed") or not 0 < dropped < 1:
            raise ValueError(
                f"drop_tokens must be random:R or changed:R with R in (0, 1), or empty, got '{self.drop_tokens}'"
            )
        return dropped

    @property
    def _drops(self) -> str:
        """Which tokens are left out: "random", "changed" (those that do not change), or "" for none."""
        return self.drop_tokens.partition(":")[0]

    def config(self, data: DataOptions, **changes: Any) -> VideoMAEConfig:
        """See `BackboneOptions.config`. It raises ValueError also where `drop_tokens` leaves too few tokens."""
        config = super().config(data, **changes)
        self._kept_count(config)
        return config

    def _kept_count(self, config: VideoMAEConfig) -> int:
        """Tokens of each clip that training computes."""
        count = config.num_tokens - int(self.dropped_share() * config.num_tokens)
        first = config.num_tokens // config.grid[0]
        if self._drops == "changed" and count < first:
            raise ValueError(
                f"drop_tokens {self.drop_tokens} would keep {count} of {config.num_tokens} tokens, "
                f"fewer than the {first} of the first frames, which changed always keeps"
            )
        return count

    def kept_tokens(self, batch: ClipBatch, config: VideoMAEConfig, seed: int) -> Tensor | None:
        """The tokens of each clip that training computes.

        Args:
            batch: as it is loaded, before augmentation, on the device where it is augmented.
            config: the model.
            seed: of the run.

        Returns:
            (B, K) int64, ascending; None for all.
        """
        share = self.dropped_share()
        if not share:
            return None
        if self._drops == "random":
            return random_mask_index(batch.sample, config.num_tokens, share, seed=seed, stream=_DROP_STREAM)
        return changed_token_index(clean_clips(batch.clips, batch.matrix), self._kept_count(config), config.patch)


@dataclass(frozen=True)
class LayerwiseOptimizer(OptimizerOptions):
    """Batches, epochs, and the optimizer, whose learning rates decay with depth."""

    batch_size: int = option(16, "videos per device and batch; clips are this times crops_per_video", least=1)
    epochs: int = option(90, "passes over the data", least=1)
    warmup_epochs: int = option(5, "epochs of linear warm-up; must be fewer than epochs", least=0)
    lr: float = option(7e-4, "learning rate for 256 videos per step; it is scaled by videos / 256", least=0)
    final_lr: float = option(1e-6, "final learning rate, scaled in the same way", least=0)
    weight_decay: float = option(0.05, "weight decay of matrices; biases and norms have none", least=0)
    beta2: float = option(0.999, "second AdamW coefficient; the first is 0.9", least=0, below=1)
    clip_grad: float = option(0.0, "largest gradient norm; 0 does not clip (published: 5 for giant on K710)", least=0)
    layer_decay: float = option(0.75, "factor of the learning rate from each layer to the one before it", least=0)
    ema_decay: float = option(
        0.0, "decay per step of an average of the weights, which is evaluated and saved too; 0: none", least=0, below=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], got {self.layer_decay}")


def labels_digest(videos: Mixture) -> dict[str, Any]:
    """What a continued run must have in common with its beginning: the classes and the labels.

    Args:
        videos: with numbered classes.

    Returns:
        Values by name, which JSON can hold.
    """
    names = list(videos.class_names)
    digest = hashlib.sha256(json.dumps(names).encode() + videos.labels.tobytes())
    return {"classes": len(names), "labels": digest.hexdigest()[:16]}
