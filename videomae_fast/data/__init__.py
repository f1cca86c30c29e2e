"""Video clips for pre-training: annotations, readers, sampling, crops, and a loader that resumes exactly."""

from .annotations import Annotations, VideoEntry
from .crops import CropBox, crop_resize, multi_scale_crop_box
from .dataset import ClipBatch, ClipDataset, ClipSample, collate
from .demo import demo_folder
from .lists import read_annotations
from .loader import StepSampler, make_loader
from .mixture import Mixture, VideoSource, read_mixture
from .problems import ProblemLog, UnreadableVideosError, VideoProblem
from .readers import DEFAULT_READER, VideoError, VideoReader, open_entry, open_video
from .sampling import frame_indices
from .seeding import sample_rng

__all__ = [
    "DEFAULT_READER",
    "Annotations",
    "ClipBatch",
    "ClipDataset",
    "ClipSample",
    "CropBox",
    "Mixture",
    "ProblemLog",
    "StepSampler",
    "UnreadableVideosError",
    "VideoEntry",
    "VideoError",
    "VideoProblem",
    "VideoReader",
    "VideoSource",
    "collate",
    "crop_resize",
    "demo_folder",
    "frame_indices",
    "make_loader",
    "multi_scale_crop_box",
    "open_entry",
    "open_video",
    "read_annotations",
    "read_mixture",
    "sample_rng",
]
