"""A damaged or strange file of weights is one line that names it, and runs no code."""

import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from videomae_fast.interop import init_weights
from videomae_fast.interop.checkpoint import CheckpointError, read_weights, write_safetensors, write_torch

STATE = {"weight": torch.arange(12.0).view(3, 4), "bias": torch.ones(3)}
FORMATS = {
    "w.pth": lambda path: torch.save({"model": STATE}, path),
    "w.safetensors": lambda path: save_file(STATE, path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_anywhere(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FORMATS[name](path)
    whole = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError) as error:
            init_weights(nn.Linear(4, 3), path)
        assert f"checkpoint '{path}' is damaged" in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize("name", FORMATS)
def test_flipped_bits(name: str, tmp_path: Path) -> None:
    """Either tensors or an error that names the file; a flipped bit of a number cannot be seen."""
    path, draw = tmp_path / name, random.Random(0)
    FORMATS[name](path)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        damaged, place = bytearray(whole), draw.randrange(len(whole))
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert all(isinstance(tensor, torch.Tensor) for tensor in read_weights(path).values())
        except CheckpointError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert 0 < refused < 150


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"model": {"weight": Code()}}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Code(), protocol=2))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match="objects other than tensors") as error:
            init_weights(nn.Linear(4, 3), tmp_path / name)
        assert "weights_only" not in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["pipe.pth", "pipe.safetensors"])
def test_a_pipe_is_not_opened(name: str, tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name}' is no regular file and no folder"):
        read_weights(tmp_path / name)


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_safetensors(STATE, tmp_path / "w.safetensors")
    write_torch(STATE, tmp_path / "w.pth")
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
