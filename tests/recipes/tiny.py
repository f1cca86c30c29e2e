"""A model and videos small enough to pre-train within a test. Run as a module, it is the command line with that model:

python -m tests.recipes.tiny pretrain --model tiny ...
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np

from videomae_fast.engine.log import read_log
from videomae_fast.models.config import CONFIGS, VideoMAEConfig
from videomae_fast.recipes.pretrain import PretrainConfig

TINY = VideoMAEConfig(48, 2, 2, 24, 1, decoder_depth=2)
ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, Any] = {  # what a run on `write_videos` needs: 8 videos, batches of 2: 4 steps per epoch
    "model": "tiny",
    "num_frames": 8,
    "image_size": 32,
    "frame_stride": 1,
    "crops_per_video": 2,
    "workers": 0,
    "epochs": 3,
    "warmup_epochs": 1,
    "batch_size": 2,
    "lr": 0.1,  # 8e-4 after scaling
    "final_lr": 1e-3,
    "precision": "fp32",
    "seed": 3,
    "log_every": 3,
}


def write_videos(folder: Path, count: int = 8) -> Path:
    """Videos of 12 frames of 64 x 48 pixels, each of another moving texture."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        texture = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        texture = texture.repeat(4, axis=0).repeat(4, axis=1)
        with av.open(str(folder / f"video{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"g": "4", "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for shift in range(12):
                frame = np.roll(texture, 2 * shift, axis=1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
    return folder


def settings(data: Path, output: Path, /, **changes: Any) -> PretrainConfig:
    """A run of 12 steps; what `changes` says is different."""
    return PretrainConfig.from_options(**(SETTINGS | {"data": str(data), "output": str(output)} | changes))


def arguments(config: PretrainConfig) -> list[str]:
    """The command line of `config`."""
    result = ["pretrain"]
    for name, value in config.flat().items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            result += [option] * value
        elif value != "":
            result += [option, str(value)]
    return result


def start(command: list[str], variables: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """`python command...` from the repository's root, one thread, in a process group of its own."""
    paths = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **paths, **(variables or {})},
        text=True,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    )


def losses(output: Path) -> list[float]:
    """Of every step that log.csv has, checked to be one row per step from 1."""
    rows = read_log(output)
    assert [int(row["step"]) for row in rows] == list(range(1, len(rows) + 1))
    return [float(row["loss"]) for row in rows]


def saved_step(checkpoint: Path) -> int:
    return json.loads((checkpoint / "state.json").read_text())["step"]


if __name__ == "__main__":
    from videomae_fast.cli import main

    CONFIGS["tiny"] = TINY
    sys.exit(main())
