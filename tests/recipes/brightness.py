"""Labelled videos whose classes differ in brightness: `train` and `test`, a folder for each class."""

from pathlib import Path

import av
import numpy as np

CLASSES = ("dark", "grey", "light")


def write_class(folder: Path, level: int, count: int, seed: int) -> None:
    """Noise around a level of grey."""
    folder.mkdir(parents=True)
    for number in range(count):
        noise = np.random.default_rng((seed, level, number)).integers(-20, 20, (10, 32, 32, 3))
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for frame in (noise + level).clip(0, 255).astype(np.uint8):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())


def write_brightness(folder: Path) -> Path:
    """Four training and two test videos of each class."""
    for part, count in (("train", 4), ("test", 2)):
        for place, name in enumerate(CLASSES):
            write_class(folder / part / name, 50 + 75 * place, count, len(part))
    return folder
