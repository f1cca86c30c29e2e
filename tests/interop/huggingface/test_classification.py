"""Our classifier and transformers' `VideoMAEForVideoClassification`: weights in every bias layout, the same logits."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.baselines.published.model import sinusoid_table
from videomae_fast import VideoMAEConfig
from videomae_fast.interop import (
    CheckpointError,
    convert,
    from_huggingface,
    load_huggingface,
    load_published,
    load_weights,
    read_classifier,
    save_published,
    to_huggingface,
)
from videomae_fast.interop.huggingface.config import classifier_config
from videomae_fast.interop.huggingface.weights import bias_layout, rename_biases
from videomae_fast.models import CONFIGS, VideoMAEForClassification

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:transformers 5.5 to 5.16 loses")
TINY = VideoMAEConfig(24, 3, 3, 16, 2, patch_size=8, num_frames=4, image_size=(32, 32), mlp_ratio=3.25)
NAMES = ("yoga", "tai chi", "hugging", "juggling", "archery")
LAYOUTS = ("q_bias", "qkv", "qv")


@pytest.fixture(autouse=True)
def known_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", TINY)


def disturb(model: Any, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def ours(seed: int = 1) -> VideoMAEForClassification:
    torch.manual_seed(seed)
    model = disturb(VideoMAEForClassification(TINY, 5, positions="sinusoid"), seed).double()
    model.position.copy_(sinusoid_table(TINY.num_tokens, 24, torch.float64)[0])
    return model


def theirs(eps: float = 1e-6, **changes: Any) -> Any:
    config = transformers.VideoMAEConfig(**(classifier_config(TINY, NAMES) | {"layer_norm_eps": eps} | changes))
    hf = disturb(transformers.VideoMAEForVideoClassification(config), 2).double().eval()
    if hf.fc_norm is not None:
        hf.fc_norm.eps = eps
    # Its float32 table would hide errors below 1e-7.
    hf.videomae.embeddings.position_embeddings = sinusoid_table(TINY.num_tokens, 24, torch.float64)
    return hf


def clip() -> Tensor:
    torch.manual_seed(3)
    return torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)


def assert_same_model(model: VideoMAEForClassification, hf: Any) -> None:
    """Logits, and the gradients of the clip and the head."""
    mine, other = clip().requires_grad_(), clip().requires_grad_()
    logits, expected = model(mine), hf(other.transpose(1, 2)).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-11)
    gradients = torch.autograd.grad(logits.square().sum(), (mine, model.head.weight, model.fc_norm.bias))
    wanted = torch.autograd.grad(expected.square().sum(), (other, hf.classifier.weight, hf.fc_norm.bias))
    torch.testing.assert_close(gradients, wanted, rtol=1e-10, atol=1e-11)


def test_its_weights_in_our_model() -> None:
    hf, model = theirs(), ours()
    for name, parameter in hf.named_parameters():
        if name.endswith("key.bias"):
            parameter.data.zero_()
    load_weights(model, from_huggingface(hf.state_dict()))
    assert_same_model(model, hf)
    back = to_huggingface(model.state_dict(), bias_layout(hf.state_dict()))
    assert back.keys() == hf.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in hf.state_dict().items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_our_weights_in_its_model(layout: str) -> None:
    """Published names, and those of any bias layout."""
    hf, model = theirs(), ours()
    state = to_huggingface(model.state_dict(), layout)  # type: ignore[arg-type]
    for source in (state, model.state_dict()):
        disturb(hf)
        assert load_huggingface(hf, source) == ([], [])
        assert_same_model(model, hf)
    back = from_huggingface(state)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_a_bias_of_keys_changes_nothing() -> None:
    hf, model = theirs(), ours()
    if bias_layout(hf.state_dict()) == "q_bias":
        pytest.skip("this version of transformers has no place for it")
    state = rename_biases(hf.state_dict(), "qkv")
    for module in hf.modules():
        if hasattr(module, "key"):
            module.key = nn.Linear(24, 24).double()
    torch.manual_seed(4)
    hf.load_state_dict(state | {name: torch.randn(24) for name in state if name.endswith("key.bias")})
    load_weights(model, from_huggingface(hf.state_dict()))
    assert_same_model(model, hf)


def test_the_epsilons_differ_little() -> None:
    """As it ships, transformers has 1e-12 in its blocks and 1e-5 in `fc_norm`."""
    model, hf = ours(), theirs(1e-12)
    hf.fc_norm.eps = 1e-5
    load_huggingface(hf, model.state_dict())
    expected = model(clip())
    error = (hf(clip().transpose(1, 2)).logits - expected).norm() / expected.norm()
    assert 1e-8 < error < 1e-4


def published(tmp_path: Path) -> Path:
    save_published(ours().float(), tmp_path / "checkpoint.pth")
    return tmp_path / "checkpoint.pth"


def to_folder(tmp_path: Path, **options: Any) -> Path:
    with pytest.warns(UserWarning, match=r"positions are those of clips of \(16, 224, 224\)"):
        convert(published(tmp_path), tmp_path / "hf", "huggingface", num_frames=4, image_size=32, **options)
    return tmp_path / "hf"


@pytest.mark.parametrize("named", [False, True])
def test_there_and_back(named: bool, tmp_path: Path) -> None:
    options = {}
    if named:
        (tmp_path / "names.txt").write_text("\n".join(NAMES))
        options["classes"] = tmp_path / "names.txt"
    folder = to_folder(tmp_path, **options)
    hf, info = transformers.VideoMAEForVideoClassification.from_pretrained(folder, output_loading_info=True)
    if bias_layout(hf.state_dict()) != "qkv":
        assert not info["missing_keys"] and not info["unexpected_keys"]
    load_huggingface(hf, folder)
    assert hf.config.id2label == dict(enumerate(NAMES if named else [f"LABEL_{i}" for i in range(5)]))
    assert hf.config.label2id == {name: i for i, name in hf.config.id2label.items()}
    hf.double().fc_norm.eps = 1e-6
    hf.videomae.embeddings.position_embeddings = sinusoid_table(TINY.num_tokens, 24, torch.float64)
    model = ours()
    load_weights(model, {name: tensor.float() for name, tensor in model.state_dict().items()})  # as the file has them
    assert_same_model(model, hf.eval())
    found = read_classifier(folder)
    assert found.class_names == (NAMES if named else None) and found.positions == "sinusoid"
    assert (found.config.image_size, found.config.num_frames, found.config.encoder_heads) == ((32, 32), 4, 3)
    convert(folder, tmp_path / "back.pth", "published")
    before, after = (load_published(tmp_path / name) for name in ("checkpoint.pth", "back.pth"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_folder_that_transformers_saved(tmp_path: Path) -> None:
    hf = theirs()
    hf.save_pretrained(tmp_path / "hf")
    model = read_classifier(tmp_path / "hf").build().double()
    model.position.copy_(sinusoid_table(TINY.num_tokens, 24, torch.float64)[0])
    if bias_layout(hf.state_dict()) != "qkv":
        assert_same_model(model, hf)
    assert read_classifier(tmp_path / "hf").class_names == NAMES


def test_names_and_positions_beside_the_weights(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """No warning where transformers computes the positions that the classifier has."""
    path = published(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps(list(NAMES)))
    settings = {"data": {"num_frames": 4, "image_size": 32}, "model": {"positions": "sinusoid"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    convert(path, tmp_path / "hf", "huggingface")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert list(config["id2label"].values()) == list(NAMES) and config["use_mean_pooling"] is True
    assert config["architectures"] == ["VideoMAEForVideoClassification"]
    assert not [name for name in config if name.startswith("decoder")]
    assert not [warning for warning in recwarn if "positions are those" in str(warning.message)]


def test_code_of_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both blocks run beside the folder, and load the weights."""
    to_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "hf" / "README.md").read_text()
    spaces: list[dict[str, Any]] = [{}, {}]
    for code, space in zip(re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE), spaces, strict=True):
        exec(code, space)
    assert isinstance(spaces[0]["model"], transformers.VideoMAEForVideoClassification)
    model, state = spaces[1]["model"], ours().float().state_dict()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items()) and not model.training
    count = sum(parameter.numel() for parameter in model.parameters())
    for part in ("pipeline_tag: video-classification", f"| parameters | {count:,} |", "of 5 classes"):
        assert part in text
    assert "converted from `checkpoint.pth`" in text
    pixels = spaces[0]["processor"]([*torch.zeros(4, 40, 50, 3, dtype=torch.uint8).numpy()], return_tensors="pt")
    assert pixels["pixel_values"].shape == (1, 4, 3, 32, 32)


def test_errors(tmp_path: Path) -> None:
    size = {"num_frames": 4, "image_size": 32}
    path = published(tmp_path)
    (tmp_path / "two.txt").write_text("yoga\ntai chi\n")
    with pytest.raises(ValueError, match=r"two.txt' names 2 classes, the head of .*checkpoint.pth' has 5"):
        convert(path, tmp_path / "x", "huggingface", classes=tmp_path / "two.txt", **size)
    with pytest.raises(ValueError, match="give --num-frames and --image-size"):
        convert(path, tmp_path / "x", "huggingface")
    state = load_published(path)
    torch.save({name: t for name, t in state.items() if name != "fc_norm.bias"}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"missing: fc_norm.bias"), pytest.warns(UserWarning):
        convert(tmp_path / "part.pth", tmp_path / "x", "huggingface", **size)
    torch.save({name: t for name, t in state.items() if not name.startswith("fc_norm")}, tmp_path / "first.pth")
    with pytest.raises(CheckpointError, match=r"first.pth': it has no fc_norm: its head reads one token"):
        convert(tmp_path / "first.pth", tmp_path / "x", "huggingface", **size)
    folder = to_folder(tmp_path)
    with pytest.raises(ValueError, match="and classes are for to='huggingface'"):
        convert(folder, tmp_path / "x.pth", "published", classes=tmp_path / "two.txt")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 8}))
    with pytest.raises(CheckpointError, match=r"config.json has 8 attention heads"):
        convert(folder, tmp_path / "x.pth", "published")
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.pth").exists()


def test_the_first_token_is_no_mean() -> None:
    """`use_mean_pooling=False`: the head reads the first token after the last norm of the encoder."""
    state = theirs(use_mean_pooling=False).state_dict()
    with pytest.raises(CheckpointError, match="use_mean_pooling=False, and its classifier reads the first token"):
        from_huggingface(state)


def test_pretraining_is_no_classifier(tmp_path: Path) -> None:
    from videomae_fast import VideoMAEForPretraining

    save_published(VideoMAEForPretraining(TINY), tmp_path / "pretrained.pth")
    (tmp_path / "two.txt").write_text("yoga\ntai chi\n")
    size = {"num_frames": 4, "image_size": 32}
    with pytest.raises(ValueError, match=r"two.txt', and .*pretrained.pth' is no classifier"):
        convert(tmp_path / "pretrained.pth", tmp_path / "x", "huggingface", classes=tmp_path / "two.txt", **size)
    state = ours().state_dict() | {"blocks.9.norm1.weight": torch.ones(24)}
    with pytest.raises(CheckpointError, match=r"not a published classification state dict: .*unexpected: blocks"):
        to_huggingface(state, "qv")
    missing, unexpected = load_huggingface(theirs(), to_huggingface(pretraining_state(), "qv"), strict=False)
    assert {name.partition(".")[0] for name in missing} == {"classifier", "fc_norm"}
    assert "mask_token" in unexpected


def pretraining_state() -> dict[str, Tensor]:
    from videomae_fast import VideoMAEForPretraining

    return VideoMAEForPretraining(TINY).state_dict()
