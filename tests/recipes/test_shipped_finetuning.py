"""Every file of examples/configs/finetune for VideoMAE is what the releases fine-tune with, written down again from
scripts. test_shipped_internvideo2.py has the others."""

import sys
from pathlib import Path

import pytest
import torch

from videomae_fast.cli import build_parser
from videomae_fast.cli.runs import read_config
from videomae_fast.engine.optim import learning_rate
from videomae_fast.recipes.finetune import FinetuneConfig

pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "configs" / "finetune"
# GPUs, --batch_size, --lr, the rate after the warm-up, --layer_decay, --weight_decay, --epochs, --warmup_epochs,
# --drop_path, --head_drop_rate (V1: --fc_drop_rate), --clip_grad, --num_sample.
SCRIPTS = """
vit_b_k400           32 16  7e-4  1.4e-3    .75  .05   90  5  .1   0   0  2
vit_b_k710           32 16  7e-4  1.4e-3    .75  .05   90  5  .1   0   0  2
vit_b_ssv2           16 16  2e-3  2e-3      .65  .05   25  5  .1   0   0  2
vit_l_k400           32  6  2e-3  1.5e-3    .75  .05   35  5  .2   0   0  2
vit_l_ssv2           32  6  5e-4  3.75e-4   .75  .05   20  5  .2   0   0  2
vit_h_k400           32  4  1e-3  5e-4      .8   .05   40  5  .2   .5  0  2
vit_h_k600            1  4  1e-3  1.5625e-5 .8   .05   40  5  .2   .5  0  2
vit_h_k710           32  4  1e-3  5e-4      .8   .05   40  5  .2   .5  0  2
vit_h_ssv2           32  4  5e-4  2.5e-4    .8   .05   20  5  .2   0   0  2
vit_g_k400           64  3  1e-3  7.5e-4    .9   .1    30  5  .2   0   0  2
vit_g_k710           32  3  1e-3  3.75e-4   .9   .1    35  5  .3   0   5  2
vit_g_k710_k400      32  3  1e-5  3.75e-6   .9   .1     3  1  .25  0   0  2
vit_g_k710_k600      32  3  1e-5  3.75e-6   .9   .1     3  1  .25  0   0  2
vit_g_ssv2           32  3  3e-4  1.125e-4  .9   .05   20  5  .25  0   0  2
vit_g_k710_ucf101     8  3  1e-3  9.375e-5  .9   .05   50  5  .35  .5  0  2
vit_g_k710_hmdb51     8  3  5e-4  4.6875e-5 .9   .05   15  5  .35  .5  0  2
v1_vit_s_k400        32 12  5e-4  7.5e-4    .75  .05  150  5  .1   0   0  2
v1_vit_s_ssv2        32 12  1e-3  1.5e-3    .7   .05   40  5  .1   0   0  2
v1_vit_b_k400_800e   64  8  1e-3  2e-3      .75  .05  100  5  .1   0   0  1
v1_vit_b_k400_1600e  64  6  5e-4  7.5e-4    .75  .05   75  5  .1   0   0  2
v1_vit_b_ssv2_800e   64  8  5e-4  1e-3      .75  .05   50  5  .1   0   0  1
v1_vit_b_ssv2_2400e  64  6  5e-4  7.5e-4    .75  .05   30  5  .1   0   0  2
v1_vit_l_k400        64  2  2e-3  1e-3      .75  .05   35  5  .1   0   0  2
v1_vit_h_k400        64  8  1e-3  2e-3      .75  .05   50  5  .2   .5  0  2
v1_vit_b_ucf101       8 16  5e-4  2.5e-4    .7   .05  100  5  .2   .5  0  2
"""
COLUMNS = ("layer_decay", "weight_decay", "epochs", "warmup_epochs", "drop_path", "head_dropout")
COLUMNS += ("clip_grad", "crops_per_video")
TABLE = {name: [float(number) for number in row] for name, *row in map(str.split, SCRIPTS.strip().splitlines())}
SIZES = {"s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
LESS_MEMORY = {"v1_vit_h_k400", "v1_vit_b_ucf101"}  # --use_checkpoint, with --min_lr 1e-5
# Parameters in millions, of 400 classes.
PARAMETERS = {"small": 22.033936, "base": 86.5348, "large": 304.270736, "huge": 632.11944, "giant": 1012.174352}


def _load(name: str) -> FinetuneConfig:
    """As `videomae-fast finetune --config` does."""
    args = build_parser().parse_args(["finetune", "--config", str(FOLDER / f"{name}.toml")])
    return read_config(args, FinetuneConfig)


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.iterdir() if not path.stem.startswith("internvideo2_")} == TABLE.keys()


@pytest.mark.parametrize("name", TABLE)
def test_the_settings_are_those_of_the_script(name: str) -> None:
    gpus, batch, lr, used, *expected = TABLE[name]
    config, options = _load(name), _load(name).flat()
    assert [options[each] for each in COLUMNS] == expected
    assert (options["batch_size"], options["lr"], options["accumulate"]) == (batch, lr, 1)
    peak = learning_rate(config.optimizer.warmup_epochs * 10, config.optimizer, 10, int(gpus * batch))
    assert peak == pytest.approx(used)
    assert options["final_lr"] == (1e-5 if name in LESS_MEMORY else 1e-6)
    assert options["activation_checkpointing"] == (name in LESS_MEMORY)
    assert options["model"] == SIZES[name.split("vit_")[1][0]] and options["train"] == "all"
    text = (FOLDER / f"{name}.toml").read_text().replace("\n# ", " ")
    assert f"trained on {gpus:.0f} GPU" in text and f"{used:.3g} at the {gpus * batch:.0f} of the release" in text


@pytest.mark.parametrize("name", TABLE)
def test_what_all_scripts_have_in_common(name: str) -> None:
    """But Something-Something, whose classes tell left from right, and whose frames are spread over the video."""
    options, ssv2 = _load(name).flat(), "ssv2" in name
    assert (options["num_frames"], options["image_size"]) == (16, 224)
    assert (options["sampling"], options["hflip"]) == (("uniform", False) if ssv2 else ("dense", True))
    assert options["frame_stride"] == (2 if name == "vit_g_k710_hmdb51" else 4)
    assert (options["crop"], options["crop_area"], options["resize"]) == ("random-resized", 0.08, "bilinear")
    assert (options["augment"], options["rand_augment"]) == ("pillow", "rand-m7-n4-mstd0.5-inc1")
    assert [options[each] for each in ("erasing", "mixup", "cutmix", "smoothing")] == [0.25, 0.8, 1.0, 0.1]
    assert [options[each] for each in ("mix_probability", "mix_switch", "init_scale")] == [1.0, 0.5, 0.001]
    assert (options["beta2"], options["ema_decay"], options["drop_tokens"], options["lora_rank"]) == (0.999, 0, "", 0)
    text = (FOLDER / f"{name}.toml").read_text().replace("\n# ", " ")
    views = "evaluate --sampling uniform --segments 2 --crops 3" if ssv2 else "evaluate --segments 5 --crops 3"
    assert f"{name}.toml" in text and views in text
    assert ("init-classes label_710to" in text) == (name in ("vit_g_k710_k400", "vit_g_k710_k600"))


@pytest.mark.parametrize("name", ["v1_vit_s_k400", "vit_b_k400", "vit_l_k400", "vit_h_k400", "vit_g_k400"])
def test_size(name: str) -> None:
    config = _load(name)
    with torch.device("meta"):
        model = config.model.classifier(config.model_config(), 400)
    weights = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert weights == pytest.approx(PARAMETERS[config.model.model], rel=1e-9)


def test_the_defaults_are_those_of_vit_b_on_kinetics_400() -> None:
    """But for the pixels of RandAugment."""
    assert _load("vit_b_k400").with_options(augment="device") == FinetuneConfig()
