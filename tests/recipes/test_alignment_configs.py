"""Every file of examples/configs/align: what is published, written down again from its scripts, and what is decided."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae_fast.cli import build_parser
from videomae_fast.cli.runs import read_config
from videomae_fast.engine.optim import learning_rate
from videomae_fast.models import AlignmentHeads, InternVideo2ForAlignment
from videomae_fast.recipes.align import EPS, AlignConfig
from videomae_fast.recipes.align_teachers import teaching_layers

pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "configs" / "align"
COMMON = (
    "--num_sample 1 --mask_ratio 0.8 --clip_return_layer 6 --opt_betas 0.9 0.98 --weight_decay 0.05 "
    "--num_workers 12 --clip_loss_ratio 1 1"
)
STAGE1 = (
    f"{COMMON} --mae_return_layer 4 --mae_loss_ratio 1 --lr 1.5e-4 --num_segments 8 --clip_grad 3.0 "
    "--warmup_epochs 40 --epochs 301"
)  # and of its 16 segments, every second one is the student's
DISTIL = (
    f"{COMMON} --clip_teacher_return_interval 3.34 --lr 1e-3 --drop_path 0.05 --num_segments 8 --clip_grad 5.0 "
    "--warmup_epochs 20 --epochs 101"
)
# The flags of scripts/pretraining/*_pt.sh and scripts/distillation/*.sh that have an option of ours.
SCRIPTS = {
    "internvideo2_1b": f"{STAGE1} --drop_path 0.25 --checkpoint_num 40 --batch_size 32",
    "internvideo2_6b": f"{STAGE1} --drop_path 0.3 --checkpoint_num 48 --batch_size 8",
    "internvideo2_s_from_1b": f"{DISTIL} --batch_size 128",
    "internvideo2_b_from_1b": f"{DISTIL} --batch_size 128",
    "internvideo2_l_from_1b": f"{DISTIL} --batch_size 64",
}
WORDS = {"num_sample": "crops_per_video", "clip_return_layer": "image_layers", "mae_return_layer": "video_layers"}
WORDS |= {"num_segments": "num_frames", "num_workers": "workers", "checkpoint_num": "activation_checkpointing"}
WORDS |= {"clip_teacher_return_interval": "distil_interval", "mae_loss_ratio": "video_weight"}
# Size, GPUs of the script, learning rate after the warm-up on as many, weights with all heads in millions.
PUBLISHED = {
    "internvideo2_1b": ("1b", 128, 2.4e-3, 1070),
    "internvideo2_6b": ("6b", 256, 1.2e-3, 6076),
    "internvideo2_s_from_1b": ("small", 32, 1.6e-2, None),
    "internvideo2_b_from_1b": ("base", 32, 1.6e-2, None),
    "internvideo2_l_from_1b": ("large", 32, 8e-3, None),
}
OURS = {"internvideo2_l_one_gpu", "internvideo2_s_two_cores"}


def _load(name: str) -> AlignConfig:
    """As `videomae-fast align --config` does."""
    args = build_parser().parse_args(["align", "--config", str(FOLDER / f"{name}.toml")])
    return read_config(args, AlignConfig)


def _flags(script: str) -> dict[str, Any]:
    """The options of a script by our names."""
    found: dict[str, Any] = {}
    for name, value in re.findall(r"--(\w+) (\S+(?: [^-\s]\S*)*)", script):
        if name == "opt_betas":
            found["beta2"] = value.split()[1]
        elif name == "clip_loss_ratio":
            found["image_weight"], found["pooled_weight"] = value.split()
        else:
            found[WORDS.get(name, name)] = value
    return found


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == SCRIPTS.keys() | OURS
    assert SCRIPTS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_settings_are_those_of_the_script(name: str) -> None:
    options, expected = _load(name).flat(), _flags(SCRIPTS[name])
    assert len(expected) >= 14
    checkpointed = expected.pop("activation_checkpointing", "")
    assert options["activation_checkpointing"] == bool(checkpointed)
    for option, value in expected.items():
        assert options[option] == type(options[option])(value), option
    assert (options["image_size"], options["patch_size"], options["final_lr"]) == (224, 14, 1e-5)
    assert (options["crop"], options["hflip"], options["sampling"]) == ("multi-scale", True, "uniform")
    assert (options["resize"], options["masks_per_clip"], options["accumulate"]) == ("pillow", 1, 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_and_learning_rate(name: str) -> None:
    size, gpus, peak, millions = PUBLISHED[name]
    config = _load(name)
    assert config.model.model == f"internvideo2-{size}"
    videos = gpus * config.optimizer.batch_size
    assert learning_rate(config.optimizer.warmup_epochs * 10, config.optimizer, 10, videos) == pytest.approx(peak)
    text = " ".join((FOLDER / f"{name}.toml").read_text().replace("#", "").split())
    assert f"on {gpus} GPUs" in text and f"GPUs x batch_size x accumulate is {videos}" in text
    if millions is not None:
        student = config.model_config()
        assert student.grid == (8, 16, 16)
        depth = student.encoder_depth
        heads = AlignmentHeads(tuple(range(depth - 6, depth)), video_layers=tuple(range(depth - 4, depth)))
        with torch.device("meta"):
            model = InternVideo2ForAlignment(student, heads)
        assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == millions


def test_the_defaults_are_the_published_1b() -> None:
    """But for the pixels, the workers, the checkpoints of blocks, and numbers of layers that follow the models."""
    changed = {"resize": "antialias", "workers": 8, "activation_checkpointing": False}
    assert _load("internvideo2_1b").with_options(**changed, image_layers=0, video_layers=0) == AlignConfig()
    assert EPS == 1e-6


def test_the_layers_are_the_published_ones() -> None:
    """Of the 48 blocks of InternVL-C, the 40 of ViT-g, and the 40 of 1B as a teacher."""
    assert teaching_layers("image_layers", 0, 40, 48) == (42, 43, 44, 45, 46, 47)
    assert teaching_layers("video_layers", 0, 40, 40) == (36, 37, 38, 39)
    for size in "sbl":
        teachers = _load(f"internvideo2_{size}_from_1b").teachers
        found = teaching_layers("image_layers", teachers.image_layers, 12, 40, teachers.distil_interval)
        assert found == (23, 26, 29, 33, 36, 39)


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_is_decided_is_marked(name: str) -> None:
    """Options that differ from the published file of the same recipe say so, or the head of the file does."""
    config, text = _load(name), (FOLDER / f"{name}.toml").read_text()
    assert f"align/{name}.toml" in text and "release has no such run" in text
    assert config.model_config().num_frames == 8
    if "marked so" not in text:
        return
    published = _load("internvideo2_1b").flat()
    marked = set(re.findall(r"^(\w+) = .*# decided", text, re.MULTILINE))
    free = {"model", "activation_checkpointing"}
    assert {option for option, value in config.flat().items() if published[option] != value} == marked | free
