"""Sections of options for classifiers: the model, which part of it is trained, and its optimizer.

Defaults are the published fine-tuning of ViT-B on Kinetics-400 (scripts/finetune/vit_b_k400_ft.sh of VideoMAE V2).
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from videomae_kernels import changed_token_index, random_mask_index

from ..data import ClipBatch
from ..data.augment import clean_clips
from ..interop import parse_clip
from ..models.classify import POSITIONS, PUBLISHED_CLIP
from ..models.config import ClipConfig
from ..models.families import SIZES, VideoClassifier, classifier_of, family_of
from ..models.lora import add_lora
from .config import option
from .options import BackboneOptions, ClipOptions
from .schedule import OptimizerOptions

_DROP_STREAM = 4  # of random_mask_index: token dropping draws apart from masks and stochastic depth


@dataclass(frozen=True)
class ClassifierOptions(BackboneOptions):
    """The classifier, and which part of it is trained."""

    patch_size: int = option(0, "height and width of a token in pixels; 0: as published for the size", least=0)
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
        self._check_positions()
        if self.lora_rank and self.train != "all":
            raise ValueError(f"lora_rank {self.lora_rank} says what is trained: leave train at all, got '{self.train}'")

    @property
    def learns_positions(self) -> bool:
        """Whether the model's positions are weights, for which `positions` and `trained_clip` have no meaning."""
        return family_of(SIZES[self.model]).learns_positions

    def _check_positions(self) -> None:
        for name in ("positions", "trained_clip"):
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            if self.learns_positions and value != default:
                raise ValueError(
                    f"{name} '{value}' is about fixed tables of positions, and {self.model} learns its own, which are "
                    f"interpolated when weights are read: leave it at '{default}'"
                )

    def classifier(self, config: ClipConfig, num_classes: int) -> VideoClassifier:
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
        return classifier_of(
            config,
            num_classes,
            head_dropout=self.head_dropout,
            init_scale=self.init_scale,
            positions=self.positions,
            trained_clip=parse_clip(self.trained_clip) if self.trained_clip else PUBLISHED_CLIP,
        )

    def choose_trained(self, model: VideoClassifier) -> None:
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

    def config(self, data: ClipOptions, **changes: Any) -> ClipConfig:
        """See `BackboneOptions.config`. It raises ValueError also where `drop_tokens` leaves too few tokens."""
        patch = {"patch_size": self.patch_size} if self.patch_size else {}
        config = super().config(data, **patch, **changes)
        self._kept_count(config)
        return config

    def _kept_count(self, config: ClipConfig) -> int:
        """Tokens of each clip that training computes."""
        count = config.num_tokens - int(self.dropped_share() * config.num_tokens)
        first = config.num_tokens // config.grid[0]
        if self._drops == "changed" and count < first:
            raise ValueError(
                f"drop_tokens {self.drop_tokens} would keep {count} of {config.num_tokens} tokens, "
                f"fewer than the {first} of the first frames, which changed always keeps"
            )
        return count

    def kept_tokens(self, batch: ClipBatch, config: ClipConfig, seed: int) -> Tensor | None:
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

    batch_size: int = option(
        16, "videos per device and batch; clips are this times crops_per_video", least=1, free=True
    )
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
