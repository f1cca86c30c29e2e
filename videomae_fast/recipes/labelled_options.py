"""Sections of options for labelled clips: the videos and their classes, and what augmentation makes of them.

Defaults are the published fine-tuning of ViT-B on Kinetics-400 (scripts/finetune/vit_b_k400_ft.sh of VideoMAE V2).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from videomae_kernels import RESIZES

from ..data import ClipDataset, Mixture, number_classes, read_classes
from ..data.augment import BACKENDS, ClipAugmentation, Mixer, parse_rand_augment
from ..data.crops import AREAS, CROP_BOXES
from ..data.sampling import SAMPLINGS
from ..data.sources.classes import CLASSES_HELP
from ..data.views import VIEW_SAMPLINGS, ViewDataset
from ..models.config import ClipConfig
from .config import Section, option
from .options import DataOptions


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
        videos = self.read(self.data, labelled=True)
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
        videos = number_classes(self.read(self.eval_data, labelled=True), class_names, allow_empty=True)
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

    def clips(self, config: ClipConfig, seed: int) -> ClipAugmentation:
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


def labels_digest(videos: Mixture) -> dict[str, Any]:
    """What a continued run must have in common with its beginning: the classes and the labels.

    Args:
        videos: with numbered classes.

    Returns:
        Values by name, which JSON can hold.
    """
    names = list(videos.class_names)
    digest = hashlib.sha256(json.dumps(names).encode())
    digest.update(np.ascontiguousarray(videos.labels).data)
    return {"classes": len(names), "labels": digest.hexdigest()[:16]}
