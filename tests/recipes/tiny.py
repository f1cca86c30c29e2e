"""A model and videos small enough to pre-train within a test. Run as a module, it is the command line with that model:

python -m tests.recipes.tiny pretrain --model tiny ...
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.two_processes import run_in_two_processes
from videomae_fast.engine.log import read_log
from videomae_fast.models.config import CONFIGS, VideoMAEConfig
from videomae_fast.recipes.config import Config
from videomae_fast.recipes.evaluate import EvaluateConfig
from videomae_fast.recipes.finetune import FinetuneConfig
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
        frames = np.stack([np.roll(texture, 2 * shift, axis=1) for shift in range(12)])
        write_video(folder / f"video{number}.mp4", frames)
    return folder


FINETUNE: dict[str, Any] = SETTINGS | {"sampling": "strided", "crop_area": 0.5, "hflip": False}
PLAIN: dict[str, Any] = {  # no augmentation but the crop
    "rand_augment": "",
    "erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "smoothing": 0.0,
    "drop_path": 0.0,
}
CLASSES = ("columns", "columns fast", "rows", "rows fast")


def write_labelled(folder: Path, per_class: int, first_seed: int = 0, classes: Sequence[str] = CLASSES) -> Path:
    """A folder per class of videos of 12 frames of 64 x 48 pixels: stripes of any colour and phase, by direction and
    speed. Other seeds make other videos of the same classes."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for seed in range(first_seed, first_seed + per_class):
            write_video(folder / name / f"video{seed}.mp4", _stripes(name, np.random.default_rng([seed, len(name)])))
    return folder


def _stripes(name: str, rng: np.random.Generator) -> np.ndarray:
    """(12, 48, 64, 3) uint8."""
    speed, phase = (4 if name.endswith("fast") else 0), rng.integers(16)
    place = np.arange(64)[None] + speed * np.arange(12)[:, None] + phase
    wave = (place // 8 % 2)[:, None, :, None] if name.startswith("columns") else (place // 8 % 2)[:, :48, None, None]
    dark, light = rng.integers(0, 80, 3), rng.integers(160, 256, 3)
    frames = np.broadcast_to(dark + wave * (light - dark), (12, 48, 64, 3)) + rng.normal(0, 4, (12, 48, 64, 3))
    return frames.clip(0, 255).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Frames (T, H, W, 3) uint8 in H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "4", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode())


def settings(data: Path, output: Path, /, **changes: Any) -> PretrainConfig:
    """A run of 12 steps; what `changes` says is different."""
    return PretrainConfig.from_options(**(SETTINGS | {"data": str(data), "output": str(output)} | changes))


def finetuning(data: Path, output: Path, /, **changes: Any) -> FinetuneConfig:
    """A run on `write_labelled`; what `changes` says is different."""
    return FinetuneConfig.from_options(**(FINETUNE | {"data": str(data), "output": str(output)} | changes))


def evaluation(data: Path, init: Path, /, **changes: Any) -> EvaluateConfig:
    """An evaluation with 2 x 2 views; what `changes` says is different."""
    options = {"frame_stride": 1, "segments": 2, "crops": 2, "workers": 0, "precision": "fp32"}
    return EvaluateConfig.from_options(**(options | {"data": str(data), "init": str(init)} | changes))


def arguments(config: Config, command: str = "pretrain") -> list[str]:
    """The command line of `config`."""
    result = [command]
    for name, value in config.flat().items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            result += [option if value else f"--no-{option[2:]}"]
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


def launch(arguments: list[str], module: str = "tests.recipes.tiny") -> str:
    """Run the command line of a module in two processes; returns what they printed."""
    return run_in_two_processes(["-m", module, *arguments])


def torchrun(
    arguments: list[str],
    module: str = "tests.recipes.tiny",
    processes: int = 2,
    variables: dict[str, str] | None = None,
    timeout: float = 120,
) -> str:
    """Run the command line of a module in several processes as users do it, which takes longer to start than `launch`;
    returns what they printed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    process = start([*launcher, module, *arguments], {"ACCELERATE_USE_CPU": "true"} | (variables or {}))
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out


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
