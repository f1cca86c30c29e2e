"""Reading published checkpoints: wrappers, prefixes, what real files hold, errors that name the cause."""

import argparse
import os
import sys
from functools import partial

import numpy as np
import pytest
import torch

from videomae_fast.interop import CheckpointError, load_published

assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"model": s}, lambda s: {"module": s, "global_steps": 3}])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "backbone.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_and_prefixes(tiny, wrap, prefix, tmp_path):
    expected = tiny().state_dict()
    checkpoint = wrap({prefix + name: tensor for name, tensor in expected.items()})
    assert_equal(load_published(checkpoint), expected)
    torch.save(checkpoint, tmp_path / "c.pth")
    assert_equal(load_published(tmp_path / "c.pth"), expected)
    assert_equal(load_published(str(tmp_path / "c.pth")), expected)


def training_checkpoint(model):
    """What the published script saves, numpy learning rates in the optimizer included, as its schedule leaves them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = np.linspace(0, 1e-3, 7)[3] * 1.0
        group["weight_decay"] = np.float64(0.05)
    args = argparse.Namespace(
        model="pretrain_videomae_base_patch16_224", window_size=(8, 14, 14), lr=1e-3, opt_betas=[0.9]
    )
    scaler = torch.amp.GradScaler("cpu").state_dict()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 199,
        "scaler": scaler,
        "args": args,
    }


def test_training_checkpoint(tiny, tmp_path):
    model = tiny()
    torch.save(training_checkpoint(model), tmp_path / "checkpoint-199.pth")
    assert_equal(load_published(tmp_path / "checkpoint-199.pth"), model.state_dict())


def test_numbers_pickled_by_numpy_1(tiny, tmp_path, monkeypatch):
    """numpy < 2 wrote `numpy.core.multiarray.scalar`; the same file with that name, in the older stream format."""
    path = tmp_path / "old.pth"
    model = tiny()
    torch.save({"model": model.state_dict(), "lr": np.float64(0.5)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert (new in data) != (old in data)
    path.write_bytes(data.replace(new, old))
    assert_equal(load_published(path), model.state_dict())


def test_reading_a_file_runs_no_code(tiny, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": tiny().state_dict(), "args": Evil()}, tmp_path / "evil.pth")
    allowed = set(torch.serialization.get_safe_globals())
    with pytest.raises(CheckpointError, match=r"evil.pth.*GLOBAL.*mkdir"):
        load_published(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    assert set(torch.serialization.get_safe_globals()) == allowed  # more is allowed for the one call only


def test_safetensors(tiny, tmp_path):
    from safetensors.torch import save_file

    expected = tiny().state_dict()
    save_file({"module." + name: tensor for name, tensor in expected.items()}, tmp_path / "m.safetensors")
    assert_equal(load_published(tmp_path / "m.safetensors"), expected)
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError, match=r"bad.safetensors' is damaged"):
        load_published(tmp_path / "bad.safetensors")


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.pth' does not exist"):
        load_published(tmp_path / "nothing.pth")
    with pytest.raises(FileNotFoundError, match="is a directory"):
        load_published(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "text", "random", "cut", "cut_old", "flipped"])
def test_damaged_file(tiny, damage, tmp_path):
    path = tmp_path / "c.pth"
    torch.save({"model": tiny().state_dict()}, path, _use_new_zipfile_serialization=damage != "cut_old")
    data = path.read_bytes()
    broken = {
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\n",
        "random": np.random.default_rng(0).bytes(5000),
        "flipped": data[:100] + bytes(b ^ 255 for b in data[100:400]) + data[400:],
    }
    path.write_bytes(broken.get(damage, data[: len(data) // 2]))
    with pytest.raises(CheckpointError, match=r"c.pth' is damaged"):
        load_published(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_altered_bytes_raise_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "c.pth"
    refused = 0
    for trial in range(60):
        torch.save({"model": {"a": torch.zeros(3)}}, path, _use_new_zipfile_serialization=trial % 2 == 0)
        data = np.frombuffer(path.read_bytes(), np.uint8).copy()
        data[rng.integers(len(data), size=20)] ^= rng.integers(1, 256, size=20, dtype=np.uint8)
        path.write_bytes(data.tobytes())
        try:
            load_published(path)
        except CheckpointError as error:
            refused += 1
            assert "c.pth'" in str(error)
    assert refused > 20


@pytest.mark.parametrize(
    "content, message",
    [
        ({}, "found an empty dict"),
        ([torch.zeros(1)], "found list"),
        ({"model": {}}, "found an empty dict"),
        ({"model": {"a": torch.zeros(1), "b": 3}}, r"found 'b' \(int\)"),
        ({"epoch": 3, "weights": {"a": torch.zeros(1)}}, r"found 'epoch' \(int\), 'weights' \(dict\)"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, "some names twice"),
    ],
)
def test_not_a_dict_of_tensors(content, message, tmp_path):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=message):
        load_published(tmp_path / "c.pth")


def test_safetensors_not_installed(tmp_path, monkeypatch):
    (tmp_path / "m.safetensors").touch()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install 'videomae-fast\[train\]'"):
        load_published(tmp_path / "m.safetensors")
