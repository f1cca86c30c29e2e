"""`videomae-fast convert`: there and back, and the clip size that it reports."""

import json
from pathlib import Path

import pytest
import torch

from videomae_fast import VideoMAEForPretraining, get_config
from videomae_fast.cli import main
from videomae_fast.interop import load_published, save_published


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = VideoMAEForPretraining(get_config("small", encoder_depth=1, decoder_depth=1))
    save_published(model, tmp_path / "checkpoint.pth")
    return tmp_path / "checkpoint.pth"


def test_there_and_back(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, back = checkpoint.with_name("hf"), checkpoint.with_name("back.safetensors")
    assert main(["convert", str(checkpoint), str(folder), "--to", "huggingface"]) == 2
    assert "give --num-frames and --image-size" in capsys.readouterr().err
    (checkpoint.parent / "config.json").write_text('{"data": {"num_frames": 16, "image_size": 112}}')
    assert main(["convert", str(checkpoint), str(folder), "--to", "huggingface"]) == 0
    assert main(["convert", str(folder), str(back), "--to", "published"]) == 0
    out, err = capsys.readouterr()
    assert out.split() == [str(folder / "model.safetensors"), str(back)]
    assert err == "clip size: 16 frames of 112x112 pixels (from the config.json beside the weights)\n"
    before, after = load_published(checkpoint), load_published(back)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_clip_size_options(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = checkpoint.with_name("hf")
    size = ["--num-frames", "8", "--image-size", "112"]
    assert main(["convert", str(checkpoint), str(target), "--to", "huggingface", *size]) == 0
    assert capsys.readouterr().err == "clip size: 8 frames of 112x112 pixels (as given)\n"
    written = json.loads((target / "config.json").read_text())
    assert (written["num_frames"], written["image_size"]) == (8, 112)


def test_errors_are_one_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["nowhere.pth", "x"], [str(checkpoint), str(checkpoint)]):
        assert main(["convert", *arguments, "--to", "huggingface"]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("videomae-fast convert: error: ") and err.count("\n") == 1
