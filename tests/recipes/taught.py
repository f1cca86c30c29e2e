"""Labelled videos, a teacher that tells them apart, and distillations small enough for a test."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tests.recipes import tiny
from videomae_fast.data import collate_views
from videomae_fast.interop.checkpoint import write_safetensors
from videomae_fast.models import VideoMAEForClassification, get_config
from videomae_fast.recipes.distil import DistilConfig
from videomae_kernels import CroppedClips

COLORS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
SETTINGS: dict[str, Any] = tiny.SETTINGS | {"epochs": 2, "warmup_epochs": 0, "log_every": 1, "batch_size": 4}
SETTINGS |= {"track": "none", "drop_path": 0.2, "lr": 0.05, "final_lr": 0.01}


def write_colors(folder: Path, count: int, seed: int = 0) -> Path:
    """A list of `count` videos of 10 noisy frames of 40 x 48 pixels, each of one of three colours, its class."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        color = list(COLORS)[number % 3]
        with av.open(str(folder / f"video{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
            for _ in range(10):
                noise = rng.integers(-40, 40, (10, 12, 3)).repeat(4, 0).repeat(4, 1)
                frame = (noise + np.array(COLORS[color])).clip(0, 255).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
        lines.append(f"{folder}/video{number}.mp4 {number % 3}\n")
    (folder / "list.txt").write_text("".join(lines))
    (folder / "names.txt").write_text("\n".join(COLORS))
    return folder / "list.txt"


def views(videos: Path) -> tuple[CroppedClips, Tensor]:
    """The centre views of a list, and their classes."""
    dataset = settings(videos, videos, videos, eval_data=str(videos)).data.evaluation_views(list(COLORS))
    batch = collate_views([dataset[number] for number in range(len(dataset))])
    assert batch.clips is not None
    return batch.clips, batch.label


def make_teacher(folder: Path, videos: Path, **changes: Any) -> Path:
    """A folder like a checkpoint of a run: random blocks, and a head of least squares that tells the colours apart."""
    folder.mkdir(parents=True)
    model = random_classifier(**changes)
    clips, labels = views(videos)
    with torch.no_grad():
        rows = torch.cat([model.features(clips), torch.ones(len(labels), 1)], 1).double()
        targets = 8 * functional.one_hot(labels, 3).double() - 4
        head = torch.linalg.solve(rows.T @ rows + 1e-3 * torch.eye(rows.shape[1]).double(), rows.T @ targets)
        model.head.weight.copy_(head[:-1].T)
        model.head.bias.copy_(head[-1])
        assert (model(clips).argmax(1) == labels).all()
    write_safetensors(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"data": {"num_frames": 8, "image_size": 32}}))
    (folder / "classes.json").write_text(json.dumps(list(COLORS)))
    return folder


def random_classifier(**changes: Any) -> VideoMAEForClassification:
    """A classifier of the three colours whose every weight is random."""
    config = get_config("tiny", num_frames=8, image_size=(32, 32), **changes)
    torch.manual_seed(11)
    model = VideoMAEForClassification(config, 3, trained_clip=(8, 32, 32)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def settings(videos: Path, teacher: Path, output: Path, /, **changes: Any) -> DistilConfig:
    """A distillation of `SETTINGS`; what `changes` says is different."""
    given = {"data": str(videos), "classes": str(videos.parent / "names.txt"), "teacher": str(teacher)}
    return DistilConfig.from_options(**(SETTINGS | given | {"output": str(output)} | changes))
