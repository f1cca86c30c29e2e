"""Every file of examples/configs/finetune for InternVideo2 is what the release fine-tunes with, written down again from
scripts/finetuning/full_tuning of its repository."""

import sys

import pytest
import torch

from tests.recipes.test_shipped_finetuning import FOLDER
from videomae_fast.cli import build_parser
from videomae_fast.cli.runs import read_config
from videomae_fast.engine.optim import learning_rate
from videomae_fast.recipes.finetune import FinetuneConfig

pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

# GPUs, --batch_size, --lr, the rate after the warm-up, --min_lr, --layer_decay, --epochs, --warmup_epochs, --drop_path,
# --num_frames, --checkpoint_num.
SCRIPTS = """
internvideo2_s_k710        8 32  2e-4   4e-4 1e-6 .75  35  5  .1   8   0
internvideo2_b_k710       16 16  2e-4   4e-4 1e-6 .75  20  4  .1   8   0
internvideo2_l_k710       16 16  2e-4   4e-4 1e-6 .75  14  2  .1   8   0
internvideo2_1b_k710      32  8  5e-5   1e-4 1e-6 .9    9  2  .3   8   6
internvideo2_6b_k710      64  4  2.5e-5 5e-5 0    .915  6  1  .35  8  24
internvideo2_1b_k710_k400 32  8  1e-5   2e-5 1e-6 .9    3  0  .3  16  24
"""
TABLE = {name: [float(number) for number in row] for name, *row in map(str.split, SCRIPTS.strip().splitlines())}
SIZES = {"s": "small", "b": "base", "l": "large", "1b": "1b", "6b": "6b"}
CLIPS_PER_VIDEO = 2  # --num_sample, by which the release multiplies its rates


def _load(name: str) -> FinetuneConfig:
    """As `videomae-fast finetune --config` does."""
    args = build_parser().parse_args(["finetune", "--config", str(FOLDER / f"{name}.toml")])
    return read_config(args, FinetuneConfig)


def test_every_file_is_tested() -> None:
    assert {path.stem for path in FOLDER.iterdir() if path.stem.startswith("internvideo2_")} == TABLE.keys()


@pytest.mark.parametrize("name", TABLE)
def test_the_settings_are_those_of_the_script(name: str) -> None:
    gpus, batch, lr, used, min_lr, layer_decay, epochs, warmup, drop_path, frames, repeated = TABLE[name]
    config, options = _load(name), _load(name).flat()
    assert (options["batch_size"], options["accumulate"], options["crops_per_video"]) == (batch, 1, CLIPS_PER_VIDEO)
    assert options["lr"] == pytest.approx(CLIPS_PER_VIDEO * lr)
    assert options["final_lr"] == pytest.approx(CLIPS_PER_VIDEO * min_lr)
    peak = learning_rate(config.optimizer.warmup_epochs * 10, config.optimizer, 10, int(gpus * batch))
    assert peak == pytest.approx(used)
    assert (options["layer_decay"], options["drop_path"], options["num_frames"]) == (layer_decay, drop_path, frames)
    assert (options["epochs"], options["warmup_epochs"]) == (epochs, warmup)
    assert options["model"] == f"internvideo2-{SIZES[name.split('_')[1]]}"
    text = (FOLDER / f"{name}.toml").read_text().replace("\n# ", " ")
    assert f"trained on {gpus:.0f} GPU" in text and f"{used:.3g} at the {gpus * batch:.0f} of the release" in text
    assert options["activation_checkpointing"] == (repeated > 6)
    assert (f"Decided here: the release repeats the first {repeated:.0f} of" in text) == (repeated > 0)


@pytest.mark.parametrize("name", TABLE)
def test_what_all_scripts_have_in_common(name: str) -> None:
    options = _load(name).flat()
    assert (options["image_size"], options["sampling"], options["hflip"]) == (224, "uniform", True)
    assert (options["crop"], options["crop_area"], options["resize"]) == ("random-resized", 0.08, "bilinear")
    assert (options["augment"], options["rand_augment"]) == ("pillow", "rand-m7-n4-mstd0.5-inc1")
    assert [options[each] for each in ("erasing", "mixup", "cutmix", "smoothing")] == [0.25, 0.8, 1.0, 0.1]
    assert [options[each] for each in ("mix_probability", "mix_switch", "init_scale")] == [1.0, 0.5, 0.001]
    assert (options["weight_decay"], options["beta2"], options["clip_grad"], options["head_dropout"]) == (
        0.05,
        0.999,
        0,
        0,
    )
    assert (options["ema_decay"], options["drop_tokens"], options["lora_rank"], options["train"]) == (0, "", 0, "all")
    assert (options["patch_size"], options["positions"], options["trained_clip"]) == (0, "interpolate", "")
    text = (FOLDER / f"{name}.toml").read_text().replace("\n# ", " ")
    assert f"{name}.toml" in text and "evaluate --sampling uniform --segments 4 --crops 3" in text
    assert ("--init-classes FILE" in text) == name.endswith("_k400")


@pytest.mark.parametrize("name", TABLE)
def test_size(name: str) -> None:
    """Parameters of encoder and pool in millions, by the widths and depths of the paper's models; and of the head."""
    expected = {"s": 23.0, "b": 89.4, "l": 309, "1b": 1021, "6b": 5942}[name.split("_")[1]]
    config = _load(name)
    with torch.device("meta"):
        model = config.model.classifier(config.model_config(), 400)
    weights = sum(parameter.numel() for parameter in model.parameters())
    head = 769 * 400 + 2 * 768
    more_positions = (config.data.num_frames - 8) * 256 * model.config.encoder_dim
    assert (weights - head - more_positions) / 1e6 == pytest.approx(expected, rel=2e-3)
