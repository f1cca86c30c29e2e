"""`init_weights`: weights of every layout into our model, strictly or with a report."""

import json

import pytest
import torch

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining
from videomae_fast.interop import CheckpointError, init_weights, save_published, to_huggingface
from videomae_fast.interop.checkpoint import write_safetensors

CONFIG = VideoMAEConfig(24, 3, 3, 16, 2, decoder_depth=2, patch_size=8, num_frames=4, image_size=(16, 16))
BIASES = ("q_bias", "qkv", "qv")


def build(seed):
    """A model with every tensor different from zero and one."""
    torch.manual_seed(seed)
    model = VideoMAEForPretraining(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def weights():
    return build(1).state_dict()


def write_published(weights, folder):
    save_published(weights, folder / "checkpoint-3.pth", epoch=3)
    return folder / "checkpoint-3.pth"


def write_file(weights, folder):
    write_safetensors(weights, folder / "weights.safetensors")
    return folder / "weights.safetensors"


def write_run(weights, folder):
    """A checkpoint of this library's training: Accelerate's file beside the settings and the state of the run."""
    write_safetensors(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_frames": 4, "image_size": 16}))
    torch.save({"state": {}}, folder / "optimizer.bin")
    return folder


def write_huggingface(weights, folder, layout, as_file):
    write_safetensors(to_huggingface(weights, layout), folder / "model.safetensors")
    return folder / "model.safetensors" if as_file else folder


def write_bin(weights, folder):
    torch.save(to_huggingface(weights, "q_bias"), folder / "pytorch_model.bin")
    return folder


WRITERS = {
    "published": write_published,
    "safetensors": write_file,
    "run": write_run,
    "bin": write_bin,
    **{
        f"{layout}, {'file' if as_file else 'folder'}": lambda w, f, a=layout, b=as_file: write_huggingface(w, f, a, b)
        for layout in BIASES
        for as_file in (True, False)
    },
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout(layout, strict, weights, tmp_path):
    path = WRITERS[layout](weights, tmp_path)
    model = build(2)
    for source in (path, str(path)):
        assert init_weights(model, source, strict) == ""
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("huggingface", [False, True])
def test_report(huggingface, weights, tmp_path):
    """An encoder with a classifier, as of fine-tuned models: the decoder stays as it was, the classifier is named."""
    state = to_huggingface(weights, "qv") if huggingface else weights
    state = {name: t for name, t in state.items() if not name.startswith(("decoder", "encoder_to_decoder"))}
    state["classifier.weight"] = torch.zeros(2, 24)
    write_safetensors(state, tmp_path / "model.safetensors")
    model = build(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"model.safetensors' cannot initialise VideoMAEForPretraining: .*"):
        init_weights(model, tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    report = init_weights(model, tmp_path / "model.safetensors", strict=False)
    loaded = [name for name in before if not name.startswith(("decoder", "encoder_to_decoder"))]
    assert report.startswith(f"{len(loaded)} of {len(before)} tensors of VideoMAEForPretraining are from ")
    _, missing, unexpected = report.splitlines()
    assert missing.startswith("  missing, left as they were: decoder.blocks.*.attn.proj.bias (2), ")
    assert missing.endswith(", decoder.norm.weight, encoder_to_decoder.weight")
    assert unexpected == "  unexpected, not used: classifier.weight"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name] if name in loaded else before[name])


def test_a_classifier_of_transformers(weights, tmp_path):
    """Its own file: mean pooling, so no final LayerNorm of the encoder."""
    transformers = pytest.importorskip("transformers")
    from videomae_fast.interop.huggingface.config import huggingface_config

    sizes = huggingface_config(CONFIG) | {"use_mean_pooling": True}
    hf = transformers.VideoMAEForVideoClassification(transformers.VideoMAEConfig(**sizes))
    hf.save_pretrained(tmp_path)
    model = build(2)
    with pytest.raises(CheckpointError, match="it holds a classifier, and pre-training weights are needed"):
        init_weights(model, tmp_path)
    report = init_weights(model, tmp_path, strict=False)
    _, missing, unexpected = report.splitlines()
    assert "encoder.norm.bias, encoder.norm.weight" in missing and "encoder.blocks" not in missing
    assert unexpected.endswith(": fc_norm.bias, fc_norm.weight, head.bias, head.weight")
    assert torch.equal(model.encoder.patch_embed.proj.weight, hf.videomae.embeddings.patch_embeddings.projection.weight)


@pytest.mark.parametrize("strict", [True, False])
def test_other_shapes_are_an_error(strict, weights, tmp_path):
    save_published(weights | {"mask_token": torch.zeros(1, 1, 8)}, tmp_path / "c.pth")
    model = build(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"c.pth' cannot .*mask_token is \(1, 1, 8\) .* \(1, 1, 16\) in"):
        init_weights(model, tmp_path / "c.pth", strict)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_bad_input(weights, tmp_path):
    model = build(2)
    with pytest.raises(FileNotFoundError, match=r"nothing.pth' does not exist"):
        init_weights(model, tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match=r"has none of model.safetensors, pytorch_model.bin"):
        init_weights(model, tmp_path)
    (tmp_path / "c.pth").write_bytes(b"text")
    with pytest.raises(CheckpointError, match=r"c.pth' is damaged"):
        init_weights(model, tmp_path / "c.pth")
    save_published({"blocks.0.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"no name in common: the file has 'blocks.0.weight' …, the model"):
        init_weights(model, tmp_path / "other.pth", strict=False)
    state = to_huggingface(weights, "qv")
    del state["videomae.encoder.layer.1.attention.attention.key.weight"]
    write_safetensors(state, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: videomae.encoder.layer.1.attention.attention.key.weight"):
        init_weights(model, tmp_path / "part.safetensors", strict=False)
