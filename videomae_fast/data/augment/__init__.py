"""Augmentation of labelled clips: RandAugment, random erasing, Mixup, CutMix and label smoothing.

policy    draws of RandAugment, as plain data
geometry  rotate, shear, translate, crop, resize and flip as one matrix; what a worker cuts for it
color     colour ops on a batch on the device
pillow    the same draws on whole frames in the worker, as published
erasing   a box of noise
mixing    mixtures of clips, and soft targets
normalize pixels to what a model takes
clips     `ClipAugmentation`: worker and device side together; the clips before colours change
"""

from .clips import BACKENDS, ClipAugmentation, clean_clips
from .erasing import ErasingDraw, draw_erasing, erase
from .mixing import MixDraw, Mixer, mix, mixing_partners, smooth_targets
from .normalize import normalize, normalized_clips
from .policy import AppliedOp, RandAugment, RandAugmentDraw, parse_rand_augment

__all__ = [
    "BACKENDS",
    "AppliedOp",
    "ClipAugmentation",
    "ErasingDraw",
    "MixDraw",
    "Mixer",
    "RandAugment",
    "RandAugmentDraw",
    "clean_clips",
    "draw_erasing",
    "erase",
    "mix",
    "mixing_partners",
    "normalize",
    "normalized_clips",
    "parse_rand_augment",
    "smooth_targets",
]
