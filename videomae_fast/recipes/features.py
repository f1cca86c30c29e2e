"""Features of videos: one vector, or a map of tokens, for each sliding window. A frame is decoded once.

File structure:
    FeaturesConfig   the options, in sections
    extract          the features of one video
    write_features   the features of a list of videos, a file for each
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._files import atomic_write, disk_errors, path_inside, writable_folder
from .._json import parse_json, read_text
from .._optional import require
from .._text import printable, write_table
from ..data import FrameFolder, Mixture, VideoEntry, VideoError, open_entry, open_video, read_mixture
from ..data.readers import DEFAULT_READER, MAX_DECODED_BYTES, READERS, VideoReader
from ..data.sources.lists import DATA_HELP, FORMATS, LIST_FORMAT_HELP, ROOT_HELP
from ..data.windows import FITS, Windows, stream_windows
from ..engine.manifest import checksum
from ..engine.parallel import make_accelerator
from ..engine.precision import PRECISIONS, resolve_precision
from ..interop import FeatureModel, read_feature_model
from ..interop.checkpoint import weights_file
from .config import Config, Section, option
from .start import last_checkpoint

KINDS = ("mean", "tubelets", "tokens")


@dataclass(frozen=True)
class WindowOptions(Section):
    """The videos, and the windows that slide over them."""

    data: str = option("", DATA_HELP)
    root: str = option("", ROOT_HELP)
    list_format: str = option("auto", LIST_FORMAT_HELP, choices=FORMATS)
    num_frames: int = option(0, "frames of a window; 0: as the model was trained", least=0)
    frame_stride: int = option(1, "frames of the video from one frame of a window to the next", least=1)
    window_stride: int = option(
        4, "frames of the video from one window to the next (published: 4 on THUMOS14, 16 on FineAction)", least=1
    )
    keep_tail: bool = option(True, "a last window that ends with the video, and one of a short video (published: none)")
    image_size: int = option(0, "height and width of a window in pixels; 0: as the model was trained", least=0)
    fit: str = option(
        "crop",
        "how frames become square; crop: their centre; squash: the whole, out of shape, as published",
        choices=FITS,
    )
    reader: str = option(DEFAULT_READER, "video reader", choices=READERS)
    max_decoded_bytes: int = option(MAX_DECODED_BYTES, "most memory of a decoded frame (not with decord)", least=1)

    def windows(self, num_frames: int) -> Windows:
        """The windows, of `num_frames` frames."""
        return Windows(num_frames, self.frame_stride, self.window_stride, self.keep_tail)


@dataclass(frozen=True)
class FeatureOptions(Section):
    """The model, and its features."""

    init: str = option("", "the model: weights of pre-training or a classifier, published or Hugging Face's, or a run")
    output: str = option("", "folder of the features: a .npy and a .json for each video; again, it continues")
    kind: str = option(
        "mean",
        "features of a window; mean: (D), of all tokens; tubelets: (T', D), means over space; tokens: (T', H', W', D)",
        choices=KINDS,
    )
    batch_size: int = option(8, "windows of a forward pass", least=1)
    precision: str = option("auto", "auto: bf16 on a GPU, fp32 on a CPU", choices=PRECISIONS)


@dataclass(frozen=True)
class FeaturesConfig(Config):
    """The options of an extraction. Defaults are the published windows of THUMOS14, with what they leave out."""

    windows: WindowOptions = field(default_factory=WindowOptions)
    features: FeatureOptions = field(default_factory=FeatureOptions)


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
        ValueError: an argument is unknown or out of range.
        VideoError: the video cannot be read.
    """
    windows = Windows(model.config.num_frames, frame_stride, window_stride, keep_tail)
    with closing(open_video(path)) as video:
        return _extract(model, video, windows, kind, fit, batch_size)


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
        ValueError: options are missing or do not fit, two videos would have one file, the folder has features that were
            made with other settings, or no video can be read.
        OSError: the disk is full or broken; what was written stays, and the same call continues.

    References:
        extract_tad_feature.py of VideoMAE V2, which drops the tail, squashes frames and does not normalise pixels;
        files as ActionFormer and OpenTAD read them.
    """
    windows, options = config.windows, config.features
    for name, value in (("data", windows.data), ("init", options.init), ("output", options.output)):
        if not value:
            raise ValueError(f"{name} is empty")
    folder = writable_folder(options.output)
    accelerator = make_accelerator(options.precision)
    source = last_checkpoint(Path(options.init))
    model = read_feature_model(source, num_frames=windows.num_frames or None, image_size=windows.image_size or None).to(
        accelerator.device
    )
    videos = read_mixture(windows.data, windows.root or None, windows.list_format)
    if any(source.frame_stride is not None for source in videos.sources):
        raise ValueError("data: features have one --frame-stride for all videos: leave frame_stride out of the mixture")
    files = _files(videos, folder)
    settings = _settings(config, model, source)
    missing: list[tuple[str, str]] = []
    if accelerator.is_main_process:
        for old in folder.glob("missing*.tsv"):
            old.unlink()
    accelerator.wait_for_everyone()
    rank, world_size = accelerator.process_index, accelerator.num_processes
    with torch.no_grad(), accelerator.autocast():
        for number in range(rank, len(videos), world_size):
            if _is_done(files[number], settings):
                continue
            try:
                found = _features_of(videos, number, model, config)
            except VideoError as error:
                missing.append((error.path, error.reason))
                say(f"unreadable video left out: {printable(error.path)}: {error.reason}")
                continue
            _write(files[number], found, settings, windows.windows(model.config.num_frames))
    if missing:
        write_table(folder / (f"missing_rank{rank}.tsv" if rank else "missing.tsv"), missing)
    if sum(require("accelerate.utils").gather_object([len(missing)])) == len(videos):
        raise ValueError(f"data: none of the {len(videos)} videos can be read, see {printable(folder / 'missing.tsv')}")
    return len(missing)


def _features_of(videos: Mixture, number: int, model: FeatureModel, config: FeaturesConfig) -> Features:
    options, source = config.windows, videos.source(number)
    video = open_entry(
        videos[number], options.reader, template=source.template, max_decoded_bytes=options.max_decoded_bytes
    )
    with closing(video):
        windows = options.windows(model.config.num_frames)
        return _extract(model, video, windows, config.features.kind, options.fit, config.features.batch_size)


def _extract(
    model: FeatureModel, video: VideoReader, windows: Windows, kind: str, fit: str, batch_size: int
) -> Features:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got '{kind}'")
    device = next(model.parameters()).device
    clips = stream_windows(video, windows, model.config.image_size, fit, batch_size, device)
    values = [found.float().cpu() for found in _forward(model, clips, kind)]
    shape = _shape(model, kind)
    whole = torch.cat(values) if values else torch.empty(0, *shape)
    return Features(whole.numpy(), windows.starts(video.num_frames), video.num_frames, video.fps)


def _forward(model: FeatureModel, clips: Iterator[Tensor], kind: str) -> Iterator[Tensor]:
    for clip in clips:
        if kind == "mean":
            yield model.features(clip)
        else:
            tokens = model.tokens(clip).unflatten(1, model.config.grid)
            yield tokens.mean((2, 3)) if kind == "tubelets" else tokens


def _shape(model: FeatureModel, kind: str) -> tuple[int, ...]:
    frames, height, width = model.config.grid
    sizes = {"mean": (), "tubelets": (frames,), "tokens": (frames, height, width)}
    return *sizes[kind], model.config.feature_dim if kind == "mean" else model.config.encoder_dim


def _files(videos: Mixture, folder: Path) -> list[Path]:
    """Where the features of each video go, without suffix: its path in the list, below the folder."""
    first: dict[Path, VideoEntry] = {}
    files = []
    for number in range(len(videos)):
        entry, root = videos[number]._replace(label=None), videos.source(number).annotations.root
        inside = path_inside(folder, entry.name.removeprefix(root) if root else entry.name)
        path = inside.with_suffix("")
        if (other := first.setdefault(path, entry)) != entry:
            raise ValueError(
                f"the features of {_shown(other)} and {_shown(entry)} would have one file, {printable(path)}.npy: "
                "rename one of the videos, or extract them into two folders"
            )
        files.append(path)
    return files


def _shown(entry: VideoEntry) -> str:
    """A video in a message; two videos of one name are parts of a folder of frames."""
    return printable(entry.name) + (f" from image {entry.start} on" if isinstance(entry, FrameFolder) else "")


def _settings(config: FeaturesConfig, model: FeatureModel, source: Path) -> dict[str, Any]:
    """All that decides the features of a video, as JSON holds it."""
    weights = weights_file(source)
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


def _is_done(file: Path, settings: dict[str, Any]) -> bool:
    """Whether a video has its features, made with the same settings; with other ones, that is an error."""
    values, facts = _beside(file, ".npy"), _beside(file, ".json")
    if not (values.is_file() and facts.is_file()):
        return False
    try:
        made = parse_json(read_text(facts))
        made = made["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{printable(facts)} is damaged: delete it, and its video is read again ({error})") from error
    differing = [name for name in settings if made.get(name) != settings[name]]
    if differing:
        raise ValueError(
            f"{printable(values)} was made with other settings ({', '.join(differing)}): choose another output folder"
        )
    return True


def _write(file: Path, found: Features, settings: dict[str, Any], windows: Windows) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "fps": found.fps,
        "frames": found.num_frames,
        "shape": list(found.values.shape),
        "feature_stride": windows.stride,
        "window_frames": windows.span,
        "offset_frames": windows.span / 2,
        "starts": found.starts.tolist(),
        "settings": settings,
    }
    values = _beside(file, ".npy")
    with disk_errors(values), atomic_write(values) as partial, open(partial, "wb") as stream:
        np.save(stream, found.values)
    with disk_errors(values), atomic_write(_beside(file, ".json")) as partial:
        partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def _beside(file: Path, suffix: str) -> Path:
    """The file with a suffix added: names of videos may have dots of their own."""
    return file.with_name(file.name + suffix)
