"""Video clips for pre-training: annotations, readers, sampling, crops, and a loader that resumes exactly."""

from .annotations import Annotations, VideoEntry, read_annotations
from .crops import CropBox, crop_resize, multi_scale_crop_box
from .dataset import ClipBatch, ClipDataset, ClipSample, UnreadableVideosError, collate
from .demo import demo_folder
from .loader import StepSampler, make_loader
from .problems import ProblemLog, VideoProblem
from .readers import VideoError, VideoReader, open_video
from .sampling import frame_indices
from .seeding import sample_rng

__all__ = [
    "Annotations",
    "ClipBatch",
    "ClipDataset",
    "ClipSample",
    "CropBox",
    "ProblemLog",
    "StepSampler",
    "UnreadableVideosError",
    "VideoEntry",
    "VideoError",
    "VideoProblem",
    "VideoReader",
    "collate",
    "crop_resize",
    "demo_folder",
    "frame_indices",
    "make_loader",
    "multi_scale_crop_box",
    "open_video",
    "read_annotations",
    "sample_rng",
]
