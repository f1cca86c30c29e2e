"""Shards are read in one process, and neither damage nor code in their index passes."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from videomae_fast._shards import SHARDS, is_sharded, read_shards
from videomae_fast.interop import convert
from videomae_fast.interop.checkpoint import CheckpointError, joined_file, read_weights

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def write(folder: Path, state: dict[str, Any]) -> Path:
    dcp.save(state, checkpoint_id=folder / SHARDS)
    return folder


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "head.weight": torch.randn(3, 4, generator=generator),
        "head.bias": torch.randn(3, generator=generator).bfloat16(),
        "encoder.count": torch.tensor(7),
    }


def test_shards_are_read_whole(tmp_path: Path) -> None:
    folder = write(tmp_path, {"model": weights()})
    assert is_sharded(folder) and not is_sharded(tmp_path / SHARDS)
    for found in (read_shards(folder), read_weights(folder)):
        assert found.keys() == weights().keys()
        for name, tensor in weights().items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_shards_become_one_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "step", {"model": weights()})
    with pytest.raises(CheckpointError, match=r"in shards; this makes one file .*convert .*step weights\.safetensors"):
        joined_file(folder)
    for name in ("weights.safetensors", "weights.pth"):
        path = convert(folder, tmp_path / name, "published")
        assert joined_file(path) == path
        found = read_weights(path)
        assert found.keys() == weights().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in weights().items())


def test_a_shard_is_missing_or_short(tmp_path: Path) -> None:
    folder = write(tmp_path, {"model": weights()})
    (shard,) = (folder / SHARDS).glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"cannot be read: the shards in .* are damaged"):
        read_weights(folder)
    shard.unlink()
    with pytest.raises(ValueError, match=r"are damaged: FileNotFoundError: .*distcp"):
        read_shards(folder)
    (folder / SHARDS / ".metadata").unlink()
    with pytest.raises(ValueError, match=r"are damaged: FileNotFoundError: .*\.metadata"):
        read_shards(folder)


class Code:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.made),)


def test_no_code_in_the_index_runs(tmp_path: Path) -> None:
    folder, made = write(tmp_path / "step", {"model": weights()}), tmp_path / "made"
    (folder / SHARDS / ".metadata").write_bytes(pickle.dumps(Code(made)))
    with pytest.raises(ValueError, match=r"its index names \w+\.mkdir, which no index of weights does"):
        read_shards(folder)
    assert not made.exists()


def test_no_code_in_a_shard_runs(tmp_path: Path) -> None:
    """Values that are no tensors are pickles of their own."""
    made = tmp_path / "made"
    folder = write(tmp_path / "step", {"model": weights() | {"code": Code(made)}})
    made.rmdir() if made.exists() else None
    with pytest.raises(ValueError, match=r"are damaged: ValueError: 'model\.code' is no weight"):
        read_shards(folder)
    assert not made.exists()


def test_an_index_that_claims_more_than_the_shards_hold(tmp_path: Path) -> None:
    folder = write(tmp_path / "step", {"model": weights()})
    file = folder / SHARDS / ".metadata"
    index = pickle.loads(file.read_bytes())
    name, entry = next(iter(index.state_dict_metadata.items()))
    entry.size = torch.Size([1000, *entry.size])
    file.write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match=f"{name}' is not whole"):
        read_shards(folder)
    entry.size = entry.size[1:]
    next(iter(index.storage_data.values())).relative_path = "../elsewhere"
    file.write_bytes(pickle.dumps(index))
    with pytest.raises(ValueError, match=r"its index names a file elsewhere, \.\./elsewhere"):
        read_shards(folder)


@pytest.mark.parametrize("state", [{"optimizer": {"a": torch.zeros(1)}}, {"model": {}}])
def test_shards_of_something_else(state: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'optimizer\.a' is no weight|there are no weights"):
        read_shards(write(tmp_path, state))
