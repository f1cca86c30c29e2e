"""Video clips for training: sources, readers, sampling, crops, and a loader that resumes exactly.

Class labels are kept with the videos, and the names of classes with them. `captioned` makes clips with captions.
"""

from .bad_videos import BadVideo, BadVideoLog, UnreadableVideosError
from .batch import ClipBatch, collate
from .captioned import (
    AlternatingSampler,
    CaptionCounts,
    CaptionedBatch,
    CaptionedDataset,
    CaptionTokenizer,
    CaptionTokens,
    make_captioned_loader,
    merge_captions,
    positive_ids,
    split_kinds,
)
from .crops import Crop, CropBox, cut_clips, multi_scale_crop_box, random_resized_crop_box
from .dataset import ClipDataset, Draw
from .loader import make_loader
from .readers import DEFAULT_READER, VideoError, VideoReader, open_entry, open_video
from .sampling import dense_frames, dense_views, frame_indices, timed_frames, uniform_frames, uniform_views
from .seeding import sample_rng
from .sources.annotations import Annotations, FrameFolder, TarMember, VideoEntry, VideoFile
from .sources.captioned import CaptionedEntry, CaptionedVideos
from .sources.captions import read_captions
from .sources.choices import Choice, ChoiceVideos, read_choice_tasks, read_choices
from .sources.classes import read_classes
from .sources.demo import demo_folder
from .sources.instructions import InstructedVideos, parse_conversation, read_instructions
from .sources.labelled import number_classes
from .sources.lists import read_annotations
from .sources.mixture import Mixture, VideoSource
from .sources.mixture_file import read_mixture
from .view_batch import MissingVideo, ViewBatch, collate_views
from .views import ViewDataset

__all__ = [
    "DEFAULT_READER",
    "AlternatingSampler",
    "Annotations",
    "BadVideo",
    "BadVideoLog",
    "CaptionCounts",
    "CaptionTokenizer",
    "CaptionTokens",
    "CaptionedBatch",
    "CaptionedDataset",
    "CaptionedEntry",
    "CaptionedVideos",
    "Choice",
    "ChoiceVideos",
    "ClipBatch",
    "ClipDataset",
    "Crop",
    "CropBox",
    "Draw",
    "FrameFolder",
    "InstructedVideos",
    "MissingVideo",
    "Mixture",
    "TarMember",
    "UnreadableVideosError",
    "VideoEntry",
    "VideoError",
    "VideoFile",
    "VideoReader",
    "VideoSource",
    "ViewBatch",
    "ViewDataset",
    "collate",
    "collate_views",
    "cut_clips",
    "demo_folder",
    "dense_frames",
    "dense_views",
    "frame_indices",
    "make_captioned_loader",
    "make_loader",
    "merge_captions",
    "multi_scale_crop_box",
    "number_classes",
    "open_entry",
    "open_video",
    "parse_conversation",
    "positive_ids",
    "random_resized_crop_box",
    "read_annotations",
    "read_captions",
    "read_choice_tasks",
    "read_choices",
    "read_classes",
    "read_instructions",
    "read_mixture",
    "sample_rng",
    "split_kinds",
    "timed_frames",
    "uniform_frames",
    "uniform_views",
]
