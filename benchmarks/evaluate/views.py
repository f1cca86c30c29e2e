"""The views of evaluation, 5 segments and 3 crops of each video: the published procedure, and ours.

The published data set decodes and resizes the whole video for every view. Its OpenCV resize is here the function that
ours calls, so that only how often it is called differs; before anything is timed, pixels are compared with OpenCV's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.baselines.published import PublishedClassifier
from benchmarks.baselines.published.views import Resize, opencv_bilinear, published_dense_view, published_tensor
from benchmarks.evaluate.videos import opened
from benchmarks.harness.run import DisagreementError
from benchmarks.loader.agreement import FLOAT_ROUNDING, pixels
from benchmarks.loader.videos import make_videos
from videomae_fast.data import CropBox, Mixture, ViewDataset, read_mixture
from videomae_fast.data.crops import crop_resize
from videomae_fast.models import VideoMAEConfig, VideoMAEForClassification
from videomae_kernels import CroppedClips

PUBLISHED, OURS = VARIANTS = ("published", "videomae_fast")
VIEWS, FRAME_STRIDE, SHORT_SIDE = (5, 3), 4, 224  # published
# Of the classifier whose logits are compared: the clips of the published sizes, else as small as it can be.
CONFIG = VideoMAEConfig(48, 2, 2, 48, 2)
NUM_CLASSES = 10
PIXEL_LIMIT, LOGIT_LIMIT = 1.0 + FLOAT_ROUNDING, 1e-5  # of 255; relative


def same_bilinear(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The resize of our views."""
    return crop_resize(torch.from_numpy(frames), CropBox(0, 0, *frames.shape[1:3]), size, "bilinear").numpy()


@dataclass(frozen=True)
class ViewCase:
    """All views of some videos."""

    name: str  # a size of `make_videos`, or the name of the user's own list
    rounds: int
    own: Path | None = None  # the user's own videos

    def videos(self, folder: Path) -> Mixture:
        """The videos of the case, written into `folder` if they are not the user's own."""
        return read_mixture(self.own) if self.own else make_videos(self.name, folder)

    def maker(self, variant: str, folder: Path) -> "PublishedViews | OurViews":
        """Makes all views of a round."""
        return (PublishedViews if variant == PUBLISHED else OurViews)(self.videos(folder))

    def check(self, folder: Path) -> dict[str, float]:
        """The largest differences, of the first video: "pixels", of 255, from those with OpenCV's resize, in two views;
        "logits", relative, of all views of a small classifier. DisagreementError if they are too large."""
        published, ours = (self.maker(variant, folder) for variant in VARIANTS)
        assert isinstance(published, PublishedViews) and isinstance(ours, OurViews)
        clips = ours.dataset[0].clips
        assert clips is not None
        last = (VIEWS[0] - 1, VIEWS[1] - 1)
        found = pixels(clips, CONFIG.patch)[[0, -1]].permute(0, 2, 3, 4, 1)
        expected = np.stack([published.view(0, view, opencv_bilinear) for view in ((0, 0), last)])
        error = {"pixels": float((found - torch.from_numpy(expected)).abs().max())}
        logits = _logits(clips, list(published.views(0)))
        error["logits"] = float((logits[0] - logits[1]).norm() / logits[1].norm())
        limits = {"pixels": PIXEL_LIMIT, "logits": LOGIT_LIMIT}
        if not all(error[what] <= limit for what, limit in limits.items()):  # NaN is no agreement
            raise DisagreementError(f"views and the published ones disagree, so nothing was timed: {error}")
        return error

    def __str__(self) -> str:
        return f"{VIEWS[0]}x{VIEWS[1]} views of each video, {CONFIG.num_frames}x{SHORT_SIDE}x{SHORT_SIDE}"


class PublishedViews:
    """Calling it makes all views of all videos, each as if it were alone."""

    def __init__(self, videos: Mixture) -> None:
        self.list = videos
        self.clips = self.frames_read = self.sent = 0  # of all calls

    def __call__(self) -> None:
        for index in range(len(self.list)):
            for view in self.views(index):
                self.clips += 1
                self.sent += view.nbytes

    def views(self, index: int) -> Iterator[Tensor]:
        """The finished views of a video: (3, T, H, W) float32."""
        for segment in range(VIEWS[0]):
            for crop in range(VIEWS[1]):
                yield published_tensor(self.view(index, (segment, crop)))

    def view(self, index: int, view: tuple[int, int], resize: Resize = same_bilinear) -> np.ndarray:
        """(T, H, W, 3) uint8."""
        with opened(self.list, index) as video:
            frames = published_dense_view(video, CONFIG.num_frames, FRAME_STRIDE, SHORT_SIDE, view, VIEWS, resize)
            self.frames_read += video.frames_read
        return frames


class CountedViews(ViewDataset):
    """A ViewDataset that counts the frames that it reads."""

    frames_read = 0

    def decode(self, index: int) -> tuple[np.ndarray, Tensor]:
        places, frames = super().decode(index)
        self.frames_read += len(frames)
        return places, frames


class OurViews:
    """Calling it makes all views of all videos."""

    def __init__(self, videos: Mixture) -> None:
        self.dataset = CountedViews(
            videos,
            num_frames=CONFIG.num_frames,
            frame_stride=FRAME_STRIDE,
            size=CONFIG.image_size,
            short_side=SHORT_SIDE,
            segments=VIEWS[0],
            crops=VIEWS[1],
        )
        self.clips = self.sent = 0  # of all calls

    @property
    def frames_read(self) -> int:
        """Of all calls."""
        return self.dataset.frames_read

    def __call__(self) -> None:
        for index in range(len(self.dataset)):
            batch = self.dataset[index]
            if batch.clips is None:
                raise RuntimeError(f"{batch.missing[0].path} cannot be read: {batch.missing[0].reason}")
            self.clips += len(batch.clips.geometry)
            self.sent += batch.clips.nbytes + batch.index.nbytes + batch.label.nbytes


def _logits(clips: CroppedClips, published: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Of our classifier on our views, and of the published one on the published views: (views, classes)."""
    torch.manual_seed(0)
    ours = VideoMAEForClassification(CONFIG, NUM_CLASSES, positions="sinusoid", init_scale=1.0).eval()
    theirs = PublishedClassifier.from_config(CONFIG, NUM_CLASSES).eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        expected = torch.cat([theirs(view[None]) for view in published])
        return ours(clips), expected
