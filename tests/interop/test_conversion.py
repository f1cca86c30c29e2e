"""`convert`: files of the published layout to Hugging Face's and back, every size, not a bit changed."""

import json
from dataclasses import replace

import pytest
import torch

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining
from videomae_fast.interop import (
    CheckpointError,
    convert,
    load_huggingface,
    load_published,
    save_published,
    to_huggingface,
)
from videomae_fast.interop.huggingface.weights import bias_layout
from videomae_fast.interop.settings import clip_size
from videomae_fast.models import CONFIGS

V1_HUGE = replace(CONFIGS["huge"], decoder_dim=640)
TINY = VideoMAEConfig(24, 2, 3, 16, 2, decoder_depth=1, patch_size=8, num_frames=4, image_size=(16, 16))
pytestmark = pytest.mark.filterwarnings("ignore:transformers 5.5 to 5.16 loses")

PUBLISHED = {"num_frames": 16, "image_size": 224}


def checkpoint(config, path):
    """A published checkpoint of real widths; one block of each kind is as good as forty."""
    with torch.device("meta"):
        shapes = VideoMAEForPretraining(replace(config, encoder_depth=1, decoder_depth=1)).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in shapes.items()}
    save_published(state, path, epoch=3)
    return state


def assert_equal(state, expected):
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("size", [*CONFIGS, "huge of V1"])
def test_every_size(size, tmp_path):
    """There and back again; and transformers builds the same sizes from the config that is written."""
    config = CONFIGS.get(size, V1_HUGE)
    state = checkpoint(config, tmp_path / "checkpoint.pth")
    written = convert(tmp_path / "checkpoint.pth", tmp_path / "hf", "huggingface", **PUBLISHED)
    assert written == tmp_path / "hf" / "model.safetensors"
    assert convert(tmp_path / "hf", tmp_path / "back.pth", "published") == tmp_path / "back.pth"
    assert_equal(load_published(tmp_path / "back.pth"), state)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pth", "hf", "back.pth"}

    transformers = pytest.importorskip("transformers")
    read = transformers.VideoMAEConfig.from_pretrained(tmp_path / "hf")
    heads = (read.num_attention_heads, read.decoder_num_attention_heads)  # which no shape tells
    assert heads == (config.encoder_heads, config.decoder_heads)
    assert (read.num_frames, read.image_size, read.tubelet_size) == (16, 224, 2)
    assert (read.layer_norm_eps, read.use_mean_pooling, read.norm_pix_loss) == (1e-6, False, True)
    read.num_frames = 2  # its position tables take transformers seconds
    with torch.device("meta"):
        hf = transformers.VideoMAEForPreTraining(read).state_dict()
    wanted = to_huggingface(state, bias_layout(hf))
    assert {name: t.shape for name, t in hf.items()} == {name: t.shape for name, t in wanted.items()}


def test_safetensors(tmp_path):
    """Weights alone, as this library's training saves them, are read and written as well."""
    state = checkpoint(CONFIGS["small"], tmp_path / "checkpoint.pth")
    first = convert(tmp_path / "checkpoint.pth", tmp_path / "hf", "huggingface", **PUBLISHED)
    convert(first, tmp_path / "ours.safetensors", "published")
    assert_equal(load_published(tmp_path / "ours.safetensors"), state)
    second = convert(tmp_path / "ours.safetensors", tmp_path / "again", "huggingface", **PUBLISHED)
    assert second.read_bytes() == first.read_bytes()


def test_from_pretrained_reads_it(monkeypatch, tmp_path):
    """Versions that know what was lost (5.5 to 5.16) need `load_huggingface`: see the tests of that."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setitem(CONFIGS, "tiny", TINY)
    checkpoint(TINY, tmp_path / "checkpoint.pth")
    convert(tmp_path / "checkpoint.pth", tmp_path / "hf", "huggingface", num_frames=4, image_size=16)
    hf, info = transformers.VideoMAEForPreTraining.from_pretrained(tmp_path / "hf", output_loading_info=True)
    repaired = transformers.VideoMAEForPreTraining(hf.config)
    load_huggingface(repaired, tmp_path / "hf")
    if bias_layout(hf.state_dict()) != "qkv":
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert_equal(hf.state_dict(), repaired.state_dict())
    repaired.save_pretrained(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "back.pth", "published")
    assert_equal(load_published(tmp_path / "back.pth"), load_published(tmp_path / "checkpoint.pth"))


def test_errors(monkeypatch, tmp_path):
    checkpoint(TINY, tmp_path / "tiny.pth")
    with pytest.raises(ValueError, match="to is 'onnx'; allowed: 'published', 'huggingface'"):
        convert(tmp_path / "tiny.pth", tmp_path / "x", "onnx")
    with pytest.raises(CheckpointError, match=r"24 and 16 wide, .* known are 384, .*640"):
        convert(tmp_path / "tiny.pth", tmp_path / "x", "huggingface", **PUBLISHED)
    with pytest.raises(FileNotFoundError, match="nothing"):
        convert(tmp_path / "nothing.pth", tmp_path / "x", "huggingface", **PUBLISHED)
    with pytest.raises(ValueError, match="in the published layout already"):
        convert(tmp_path / "tiny.pth", tmp_path / "x", "published")
    with pytest.raises(FileExistsError, match=r"tiny.pth' exists already"):
        convert(tmp_path / "tiny.pth", tmp_path / "tiny.pth", "huggingface", **PUBLISHED)
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"not a published pre-training checkpoint: 'encoder.patch_embed.proj"):
        convert(tmp_path / "other.pth", tmp_path / "x", "huggingface", **PUBLISHED)
    monkeypatch.setitem(CONFIGS, "tiny", TINY)
    state = load_published(tmp_path / "tiny.pth")
    del state["encoder.norm.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"missing: encoder.norm.weight"):
        convert(tmp_path / "part.pth", tmp_path / "x", "huggingface", **PUBLISHED)
    for target, to in (("x", "huggingface"), ("x.pth", "published")):
        with pytest.raises(
            ValueError, match="num_frames, image_size and classes are for" if to == "published" else "multiples"
        ):
            convert(tmp_path / "tiny.pth", tmp_path / target, to, num_frames=4, image_size=17)
    for text in ("{", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config.json', beside the weights, is not JSON"):
            convert(tmp_path / "tiny.pth", tmp_path / "x", "huggingface")
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.pth", "other.pth", "part.pth", "config.json"}


def test_other_mlps_and_channels(tmp_path):
    """Sizes that no published model has, although its widths are: no configuration describes both MLPs."""
    state = checkpoint(CONFIGS["small"], tmp_path / "small.pth")
    name = "encoder.patch_embed.proj.weight"
    for change in ({name: state[name][:, :1]}, {"decoder.blocks.0.mlp.fc1.weight": torch.zeros(700, 192)}):
        save_published(state | change, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match="published models take 3, and have one ratio"):
            convert(tmp_path / "other.pth", tmp_path / "x", "huggingface", **PUBLISHED)


SETTINGS = {"num_frames": 8, "image_size": 112}


@pytest.mark.parametrize("settings", [SETTINGS, {"data": {"num_frames": 8}, "model": {"image_size": 112}}])
def test_clip_size_of_a_run(settings, tmp_path):
    """From the config.json of a checkpoint folder, flat or in sections; the caller's word counts for more."""
    (tmp_path / "config.json").write_text(json.dumps(settings))
    for source in (tmp_path, tmp_path / "model.safetensors"):
        found = clip_size(source)
        assert (found.num_frames, found.image_size) == (8, 112) and "config.json" in found.origin
        found = clip_size(source, image_size=96)
        assert (found.num_frames, found.image_size) == (8, 96)
    checkpoint(CONFIGS["small"], tmp_path / "checkpoint.pth")
    convert(tmp_path / "checkpoint.pth", tmp_path / "hf", "huggingface")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["num_frames"], config["image_size"]) == (8, 112)


@pytest.mark.parametrize("text", [None, "[]", "{}", '{"image_size": 384}', '{"image_size": [9, 9], "num_frames": 8}'])
def test_clip_size_of_no_run(text, tmp_path):
    """Without a configuration, or beside that of something else, the caller must tell it."""
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    for given in ({}, {"num_frames": 16} if text != '{"image_size": 384}' else {"image_size": 16}):
        with pytest.raises(ValueError, match="give --num-frames and --image-size"):
            clip_size(tmp_path / "checkpoint.pth", **given)
    assert clip_size(tmp_path / "checkpoint.pth", 4, 32).origin == "as given"


def test_misshapen_weights(tmp_path):
    state = checkpoint(CONFIGS["small"], tmp_path / "small.pth")
    save_published(state | {"mask_token": torch.tensor(0.0)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not a published pre-training checkpoint"):
        convert(tmp_path / "other.pth", tmp_path / "x", "huggingface", **PUBLISHED)
