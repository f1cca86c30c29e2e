"""Features of videos: one vector, or a map of tokens, for each sliding window. A frame is decoded once.

File structure:
    FeaturesConfig   the options, in sections
    extract          the features of one video
    write_features   the features of a list of videos, a file for each
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._files import writable_folder
from .._lock import lock_output
from .._optional import require
from .._text import printable, write_table
from ..data import Mixture, VideoError, open_entry, open_video, read_mixture
from ..data.readers import VideoReader
from ..data.windows import Windows, stream_windows
from ..engine.manifest import checksum
from ..engine.parallel import make_accelerator
from ..engine.precision import resolve_precision
from ..interop import FeatureModel
from ..interop.checkpoint import joined_file
from .config import Config
from .feature_files import FeatureFiles
from .feature_options import KINDS, FeatureOptions, WindowOptions
from .start import last_checkpoint
from .two_towers import TowerFeatures, read_video_model

AnyModel = FeatureModel | TowerFeatures


@dataclass(frozen=True)
class FeaturesConfig(Config):
    """The options of an extraction. Defaults are the published windows of THUMOS14, with what they leave out."""

    windows: WindowOptions = field(default_factory=WindowOptions)
    features: FeatureOptions = field(default_factory=FeatureOptions)

    def check_given(self, source: str) -> None:
        """Make sure that an extraction from `source`, "data" or "captions", has what it needs, and not the other one.

        Args:
            source: the option that names what features are of.

        Raises:
            ValueError: it is empty, or `init` or `output` is, or both kinds of sources are given.
        """
        sources = {"data": self.windows.data, "captions": self.features.captions}
        given = sources | {"init": self.features.init, "output": self.features.output}
        for name in (source, "init", "output"):
            if not given[name]:
                raise ValueError(f"{name} is empty")
        if all(sources.values()):
            raise ValueError("data and captions are two kinds of features: extract them into two folders, one by one")


@dataclass(frozen=True)
class Features:
    """The features of a video.

    Attributes:
        values: (n, D), (n, T', D) or (n, T', H', W', D) float32, of n windows.
        starts: (n,) int64, the first frame of each window.
        num_frames: frames of the video.
        fps: its frames per second; 0 if the file does not state it.
    """

    values: np.ndarray
    starts: np.ndarray
    num_frames: int
    fps: float


@torch.no_grad()
def extract(
    model: FeatureModel,
    path: str | Path,
    *,
    kind: str = "mean",
    frame_stride: int = 1,
    window_stride: int = 4,
    keep_tail: bool = True,
    fit: str = "crop",
    batch_size: int = 8,
) -> Features:
    """Extract the features of one video.

    Args:
        model: as `videomae_fast.interop.read_feature_model` returns it, on any device. Its configuration gives the size
            of the windows. Enter `torch.autocast` around the call for half precision.
        path: a video file.
        kind: features of a window. "mean": (D), as a head reads them; "tubelets": (T', D), means over space;
            "tokens": (T', H', W', D), in the model's own order.
        frame_stride: frames of the video from one frame of a window to the next.
        window_stride: frames of the video from one window to the next.
        keep_tail: whether the last frames, and a video that is shorter than a window, have a window.
        fit: "crop" or "squash", as in `stream_windows`.
        batch_size: windows of a forward pass.

    Returns:
        The features.

    Raises:
        ValueError: an argument is unknown or out of range, or features are NaN or infinite.
        VideoError: the video cannot be read.
    """
    windows = Windows(model.config.num_frames, frame_stride, window_stride, keep_tail)
    with closing(open_video(path)) as video:
        return _extract(model, video, str(path), windows, kind, fit, batch_size)


def write_features(config: FeaturesConfig, say: Callable[[str], None] = print) -> int:
    """Extract the features of a list of videos into a folder: `<video>.npy`, (n, …) float32, and `<video>.json`.

    The JSON file has the figures that detectors of actions ask for: frames per second, frames, stride, length, and the
    offset of a window's centre. Files are whole or absent. A video that has both is not read again, so a stopped run
    continues; several processes share the list.

    Args:
        config: for example `FeaturesConfig.from_options(data="videos", init="runs/mine", output="features")`.
        say: prints a line.

    Returns:
        The number of videos of this process that cannot be read. missing.tsv (missing_rank1.tsv, …) lists them.

    Raises:
        FileNotFoundError: the weights or a list do not exist.
        ValueError: options are missing or do not fit, two videos would have one file, another run has the folder, the
            folder has features that are damaged, of other videos or made with other settings, features are NaN or
            infinite, or no video can be read.
        OSError: the disk is full or broken; what was written stays, and the same call continues.

    References:
        extract_tad_feature.py of VideoMAE V2, which drops the tail, squashes frames and does not normalise pixels;
        files as ActionFormer and OpenTAD read them.
    """
    windows, options = config.windows, config.features
    config.check_given("data")
    folder = writable_folder(options.output)
    accelerator = make_accelerator(options.precision)
    with lock_output(folder) if accelerator.is_main_process else nullcontext():
        source = last_checkpoint(Path(options.init))
        sizes = {"num_frames": windows.num_frames, "image_size": windows.image_size}
        model = read_video_model(source, **sizes, text_model=options.text_model).to(accelerator.device)
        videos = read_mixture(windows.data, windows.root or None, windows.list_format)
        if any(each.frame_stride is not None for each in videos.sources):
            raise ValueError(
                "data: features have one --frame-stride for all videos: leave frame_stride out of the mixture"
            )
        files = FeatureFiles(folder, videos, _settings(config, model, source))
        if accelerator.is_main_process:
            for old in folder.glob("missing*.tsv"):
                old.unlink()
        accelerator.wait_for_everyone()  # no process writes before the first one has the folder
        rank, world_size = accelerator.process_index, accelerator.num_processes
        with torch.no_grad(), accelerator.autocast():
            missing = _write_all(files, files.numbers[rank::world_size], model, config, say)
        if missing:
            write_table(folder / (f"missing_rank{rank}.tsv" if rank else "missing.tsv"), missing)
        everywhere = sum(require("accelerate.utils").gather_object([len(missing)]))
    if everywhere == len(files.numbers):
        raise ValueError(f"data: none of the {everywhere} videos can be read, see {printable(folder / 'missing.tsv')}")
    return len(missing)


def _write_all(
    files: FeatureFiles,
    numbers: Iterable[int],
    model: AnyModel,
    config: FeaturesConfig,
    say: Callable[[str], None],
) -> list[tuple[str, str]]:
    """Write the features of the videos that have none; returns path and reason of those that cannot be read."""
    windows = config.windows.windows(model.config.num_frames)
    missing: list[tuple[str, str]] = []
    for number in numbers:
        try:
            if not files.is_done(number):
                found = _features_of(files.videos, number, model, config)
                files.write(number, found.values, _facts(found, windows))
        except VideoError as error:
            missing.append((error.path, error.reason))
            say(f"unreadable video left out: {printable(error.path)}: {error.reason}")
    return missing


def _features_of(videos: Mixture, number: int, model: AnyModel, config: FeaturesConfig) -> Features:
    options, source = config.windows, videos.source(number)
    video = open_entry(
        videos[number], options.reader, template=source.template, max_decoded_bytes=options.max_decoded_bytes
    )
    with closing(video):
        windows = options.windows(model.config.num_frames)
        name, kind, batch_size = videos[number].name, config.features.kind, config.features.batch_size
        return _extract(model, video, name, windows, kind, options.fit, batch_size)


def _extract(
    model: AnyModel,
    video: VideoReader,
    name: str,
    windows: Windows,
    kind: str,
    fit: str,
    batch_size: int,
) -> Features:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got '{kind}'")
    device = next(model.parameters()).device
    clips = stream_windows(video, windows, model.config.image_size, fit, batch_size, device)
    values = [found.float().cpu() for found in _forward(model, clips, kind)]
    shape = _shape(model, kind)
    whole = torch.cat(values) if values else torch.empty(0, *shape)
    if not whole.isfinite().all():
        raise ValueError(
            f"the features of {printable(name)} are NaN or infinite: the weights are damaged, or too large for the "
            "precision"
        )
    return Features(whole.numpy(), windows.starts(video.num_frames), video.num_frames, video.fps)


def _forward(model: AnyModel, clips: Iterator[Tensor], kind: str) -> Iterator[Tensor]:
    for clip in clips:
        if kind == "mean":
            yield model.features(clip)
        else:
            tokens = model.tokens(clip).unflatten(1, model.config.grid)
            yield tokens.mean((2, 3)) if kind == "tubelets" else tokens


def _shape(model: AnyModel, kind: str) -> tuple[int, ...]:
    frames, height, width = model.config.grid
    sizes = {"mean": (), "tubelets": (frames,), "tokens": (frames, height, width)}
    return *sizes[kind], model.feature_dim if kind == "mean" else model.config.encoder_dim


def _settings(config: FeaturesConfig, model: AnyModel, source: Path) -> dict[str, Any]:
    """All that decides the features of a video, as JSON holds it."""
    weights = joined_file(source)
    windows, clip = config.windows, model.config
    return {
        "model": type(model).__name__,
        "weights": weights.name,
        "weights_crc32": checksum(weights),
        "kind": config.features.kind,
        "num_frames": clip.num_frames,
        "image_size": list(clip.image_size),
        "frame_stride": windows.frame_stride,
        "window_stride": windows.window_stride,
        "keep_tail": windows.keep_tail,
        "fit": windows.fit,
        "reader": windows.reader,
        "pixel_mean": list(clip.pixel_mean),
        "pixel_std": list(clip.pixel_std),
        "precision": resolve_precision(config.features.precision),
    }


def _facts(found: Features, windows: Windows) -> dict[str, Any]:
    """What detectors of actions ask for."""
    return {
        "fps": found.fps,
        "frames": found.num_frames,
        "feature_stride": windows.stride,
        "window_frames": windows.span,
        "offset_frames": windows.span / 2,
        "starts": found.starts.tolist(),
    }
