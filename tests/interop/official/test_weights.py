"""Writing published checkpoints, and copying weights into models they fit, or do not fit."""

from functools import partial

import pytest
import torch
from torch import nn

from videomae_fast.interop import CheckpointError, load_published, load_weights, save_published

assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)


def test_save_and_load_back(tiny, tmp_path):
    model = tiny()
    save_published(model, tmp_path / "checkpoint-4.pth", epoch=4)
    save_published(nn.DataParallel(model).state_dict(), tmp_path / "plain.pth")
    checkpoint = torch.load(tmp_path / "checkpoint-4.pth", weights_only=True)
    assert checkpoint.keys() == {"model", "epoch"} and checkpoint["epoch"] == 4
    assert_equal(checkpoint["model"], model.state_dict())
    plain = torch.load(tmp_path / "plain.pth", weights_only=True)
    assert plain.keys() == {"model"}
    assert_equal(plain["model"], model.state_dict())
    other = tiny(seed=1)
    assert load_weights(other, load_published(tmp_path / "checkpoint-4.pth")) == ([], [])
    assert_equal(other.state_dict(), model.state_dict())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-4.pth", "plain.pth"]


def test_saved_views_do_not_drag_their_storage_along(tmp_path):
    save_published({"row": torch.zeros(1000, 1000)[3]}, tmp_path / "c.pth")
    assert (tmp_path / "c.pth").stat().st_size < 20_000


def test_failed_save_keeps_the_old_file(tiny, tmp_path, monkeypatch):
    path = tmp_path / "c.pth"
    save_published(tiny(), path)
    before = path.read_bytes()

    def fail(obj, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_published(tiny(seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_save_respects_umask(tiny, tmp_path):
    save_published(tiny(), tmp_path / "c.pth")
    (tmp_path / "plain").touch()
    assert (tmp_path / "c.pth").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_save_errors(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="directory does not exist"):
        save_published(tiny(), tmp_path / "no" / "c.pth")
    with pytest.raises(ValueError, match=r"torch\.save file"):
        save_published(tiny(), tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"found 'epoch' \(int\)"):
        save_published({"epoch": 3}, tmp_path / "c.pth")
    assert not list(tmp_path.iterdir())


def test_wrong_size_names_keys_and_both_shapes(tiny):
    model = tiny(dim=16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tiny(dim=32, seed=1).state_dict())
    message = str(caught.value)
    assert "mask_token is (1, 1, 16) in the checkpoint, (1, 1, 8) in the model" in message
    assert f"({len(before)} in all)" not in message  # encoder.. head.bias (384,) is the same in both
    assert f"({len(before) - 1} in all)" in message
    assert message.count("in the checkpoint, ") == 8
    assert_equal(model.state_dict(), before)
    with pytest.raises(CheckpointError, match="of another shape"):
        load_weights(model, tiny(dim=32).state_dict(), strict=False)


def test_missing_and_unexpected_keys(tiny):
    model = tiny(depth=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = tiny(depth=1, seed=1).state_dict() | {"head.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, state)
    message = str(caught.value)
    assert "does not fit PublishedVideoMAE" in message
    assert "missing: decoder.blocks.1.attn.proj.bias" in message and "(13 in all)" in message
    assert "unexpected: head.weight" in message
    assert_equal(model.state_dict(), before)
    missing, unexpected = load_weights(model, state, strict=False)
    assert len(missing) == 13 and unexpected == ["head.weight"]
    assert torch.equal(model.mask_token, state["mask_token"])
