"""Classifiers on disk: read, used as a start, and other checkpoints that are refused in their place."""

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining
from videomae_fast.interop import CheckpointError, init_weights, read_classifier, save_published, to_huggingface
from videomae_fast.interop.checkpoint import write_safetensors
from videomae_fast.interop.settings import trained_clip
from videomae_fast.models import CONFIGS, VideoMAEForClassification
from videomae_fast.models.constants import IMAGENET_MEAN, IMAGENET_STD

TINY = VideoMAEConfig(24, 3, 3, 16, 2, decoder_depth=1, patch_size=8, num_frames=4, image_size=(16, 16), mlp_ratio=3.25)
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def known_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", TINY)


def weights(classes: int = 5, seed: int = 1) -> State:
    """A classifier with every tensor different from zero and one."""
    torch.manual_seed(seed)
    state = VideoMAEForClassification(TINY, classes).state_dict()
    return {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in state.items()}


def pretrained(seed: int = 3) -> State:
    torch.manual_seed(seed)
    state = VideoMAEForPretraining(TINY).state_dict()
    return {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in state.items()}


def build(classes: int = 5) -> VideoMAEForClassification:
    torch.manual_seed(7)
    return VideoMAEForClassification(TINY, classes)


def write(state: Any, folder: Path) -> Path:
    torch.save(state, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def assert_equal(state: State, expected: State) -> None:
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def prefixed(prefix: str) -> Callable[[State], Any]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "DeepSpeed": lambda state: {"module": state},
    "compiled": prefixed("_orig_mod."),
    "DDP": prefixed("module."),
    "backbone": prefixed("backbone."),
    "encoder": prefixed("encoder."),
    "several": lambda state: {"model": prefixed("module._orig_mod.encoder.")(state)},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_published(wrapper: str, tmp_path: Path) -> None:
    path = write(WRAPPERS[wrapper](weights()), tmp_path)
    found = read_classifier(path, num_frames=4, image_size=(16, 24))
    assert_equal(found.state, weights())
    assert (found.num_classes, found.class_names, found.origin) == (5, None, "as given")
    assert (found.positions, found.trained_clip) == ("interpolate", (16, 224, 224))
    expected = {"image_size": (16, 24), "decoder_depth": 4}
    assert {name: getattr(found.config, name) for name in expected} == expected
    model = found.build(recompute="never")
    assert_equal(dict(model.state_dict()), weights())
    assert model.config.recompute == "never" and model(torch.zeros(1, 3, 4, 16, 24)).shape == (1, 5)
    other = build()
    assert init_weights(other, path) == ""
    assert_equal(dict(other.state_dict()), weights())


def test_facts_beside_the_weights(tmp_path: Path) -> None:
    """The settings of a run, and its classes."""
    path = write(weights(), tmp_path)
    published = read_classifier(path)
    assert (published.config.num_frames, published.config.image_size) == (16, (224, 224))
    assert published.origin.startswith("as the published models have it")
    settings = {"data": {"num_frames": 4, "image_size": 16}, "model": {"positions": "sinusoid"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "classes.json").write_text(json.dumps(list("abcde")))
    found = read_classifier(path)
    assert (found.config.num_frames, found.config.image_size, found.positions) == (4, (16, 16), "sinusoid")
    assert found.class_names == tuple("abcde") and "config.json" in found.origin
    (tmp_path / "config.json").write_text(json.dumps({"trained_clip": "4x16x16", "num_frames": 8, "image_size": 16}))
    model = read_classifier(path).build()
    assert torch.equal(model.position, VideoMAEForClassification(model.config, 5, trained_clip=(4, 16, 16)).position)
    (tmp_path / "config.json").write_text('{"num_frames": 8, "image_size": [16, 24]}')
    for options, expected in (
        ({}, (8, (16, 24))),
        ({"num_frames": 4}, (4, (16, 24))),
        ({"image_size": 8}, (8, (8, 8))),
    ):
        config = read_classifier(path, **options).config
        assert (config.num_frames, config.image_size) == expected
    (tmp_path / "classes.json").write_text('["a", "b"]')
    with pytest.raises(CheckpointError, match=r"checkpoint.pth': the files beside it name 2 classes, the head has 5"):
        read_classifier(path)


@pytest.mark.parametrize(
    "settings, expected",
    [
        (None, (16, 224, 224)),
        ({}, (16, 224, 224)),
        ({"num_frames": 8}, (16, 224, 224)),
        ({"num_frames": 8, "image_size": 112}, (8, 112, 112)),  # as pre-training and transformers number tokens
        ({"num_frames": 8, "image_size": [112, 96]}, (8, 112, 96)),
        ({"data": {"num_frames": 8, "image_size": 112}, "model": {"positions": "sinusoid"}}, (8, 112, 112)),
        ({"data": {"num_frames": 8, "image_size": 112}, "model": {"positions": "interpolate"}}, (16, 224, 224)),
        ({"num_frames": 8, "image_size": 112, "positions": "interpolate", "trained_clip": "4x16x24"}, (4, 16, 24)),
    ],
)
def test_whose_positions(settings: Any, expected: tuple[int, int, int], tmp_path: Path) -> None:
    path = write(weights(), tmp_path)
    if settings is not None:
        (tmp_path / "config.json").write_text(json.dumps(settings))
    assert trained_clip(path) == read_classifier(path, num_frames=8, image_size=112).trained_clip == expected


@pytest.mark.parametrize("huggingface", [False, True])
def test_half_precision_is_cast(huggingface: bool, tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in weights().items()}
    path = write(to_huggingface(halves, "qv") if huggingface else {"module": halves}, tmp_path)
    found, model = read_classifier(path, num_frames=4, image_size=16), build()
    assert_equal(found.state, halves)
    assert init_weights(model, path) == ""
    for loaded in (model, found.build()):
        assert all(tensor.dtype == torch.float32 for tensor in loaded.state_dict().values())
        assert_equal(dict(loaded.state_dict()), {name: tensor.float() for name, tensor in halves.items()})


PRETRAINED: dict[str, Callable[[State], Any]] = {
    "published": lambda state: {"model": state},
    "wrapped": prefixed("module."),
    "Hugging Face, q_bias": lambda state: to_huggingface(state, "q_bias"),
    "Hugging Face, qkv": lambda state: to_huggingface(state, "qkv"),
    "encoder alone": lambda state: {
        n.removeprefix("encoder."): t for n, t in state.items() if n.startswith("encoder.")
    },
    "Hugging Face, mean pooling": lambda state: {
        name: t for name, t in to_huggingface(state, "qv").items() if "videomae.layernorm" not in name
    },
}


@pytest.mark.parametrize("layout", PRETRAINED)
def test_start_from_pretraining(layout: str, tmp_path: Path) -> None:
    """Patch embedding and blocks are kept, nothing else; the report names what is new."""
    path, model = write(PRETRAINED[layout](pretrained()), tmp_path), build()
    report = init_weights(model, path).splitlines()
    kept = {name.removeprefix("encoder."): t for name, t in pretrained().items() if name.startswith("encoder.")}
    expected = {name: kept.get(name, tensor) for name, tensor in build().state_dict().items()}
    assert_equal(dict(model.state_dict()), expected)
    assert report[0] == f"{len(expected) - 4} of {len(expected)} tensors of VideoMAEForClassification are from '{path}'"
    assert report[1] == "  new, left as they were: fc_norm.weight, fc_norm.bias, head.weight, head.bias"
    used = (" ".join(report[2:]) + " ").replace(": ", " ").replace(",", "")
    if layout == "published":
        for name in ("decoder.blocks.*.attn.q_bias (1)", "encoder.norm.bias", "mask_token", "decoder.head.weight"):
            assert f" {name} " in used, used
    assert len(report) == 3 and report[2].startswith("  not used: ")
    assert "patch_embed" not in used and " blocks" not in used


def test_a_head_of_other_classes(tmp_path: Path) -> None:
    """By rows, or new; `fc_norm` is kept."""
    path = write(weights(7), tmp_path)
    model = build()
    report = init_weights(model, path)
    why = "(the head of the file has 7 classes, that of the model 5)"
    assert report.endswith(f"\n  new, left as they were {why}: head.weight, head.bias")
    rest = {name: tensor for name, tensor in weights(7).items() if not name.startswith("head")}
    assert_equal(dict(model.state_dict()), {**build().state_dict(), **rest})
    for source in (path, write(to_huggingface(weights(7), "qv"), tmp_path)):
        model, rows = build(), [6, 0, 2, 3, 1]
        assert init_weights(model, source, rows=rows) == ""
        expected = rest | {name: weights(7)[name][rows] for name in ("head.weight", "head.bias")}
        assert_equal(dict(model.state_dict()), expected)
    same = build(7)
    assert init_weights(same, path, rows=[6, 5, 4, 3, 2, 1, 0]) == ""
    assert torch.equal(same.head.bias, weights(7)["head.bias"].flip(0))


@pytest.mark.parametrize(
    "rows, message",
    [
        ([0, 1], "rows has 2 rows, the model has 5 classes"),
        ([0, 1, 2, 3, 7], "rows go from 0 to 7, the head of the file has 7 rows"),
        ([0, 1, 2, 3, -1], "rows go from -1 to 3"),
    ],
)
def test_bad_rows(rows: list[int], message: str, tmp_path: Path) -> None:
    model = build()
    with pytest.raises(ValueError, match=message):
        init_weights(model, write(weights(7), tmp_path), rows=rows)
    with pytest.raises(ValueError, match="rows choose from the head of a classifier, and the file has no head"):
        init_weights(model, write(pretrained(), tmp_path), rows=[0] * 5)
    with pytest.raises(ValueError, match="rows are for a classifier, not for a VideoMAEForPretraining"):
        init_weights(VideoMAEForPretraining(TINY), write(weights(7), tmp_path), rows=rows)
    assert_equal(dict(model.state_dict()), dict(build().state_dict()))


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    "change, message",
    [
        (without("blocks.1.attn.q_bias"), "missing: blocks.1.attn.q_bias"),
        (without("patch_embed.proj.bias"), "missing: patch_embed.proj.bias"),
        (lambda state: state | {"blocks.3.norm1.weight": torch.ones(24)}, "unexpected: blocks.3.norm1.weight"),
        (lambda state: state | {"blocks.0.gamma_1": torch.ones(24)}, "unexpected: blocks.0.gamma_1"),
        (lambda state: state | {"head.weight": torch.ones(5, 30)}, r"head.weight is \(5, 30\) in the checkpoint"),
        (lambda state: state | {"encoder.head.bias": torch.ones(5)}, "some names twice, with and without the prefix"),
        (without("fc_norm.weight"), "it has no fc_norm: its head reads one token"),
    ],
)
def test_weights_that_do_not_fit(change: Callable[[State], State], message: str, tmp_path: Path) -> None:
    path, model = write(change(weights()), tmp_path), build()
    with pytest.raises(
        CheckpointError, match=f"checkpoint.pth' cannot initialise VideoMAEForClassification: .*{message}"
    ):
        init_weights(model, path)
    assert_equal(dict(model.state_dict()), dict(build().state_dict()))
    with pytest.raises(CheckpointError):
        read_classifier(path, num_frames=4, image_size=16).build()


def test_a_pretrained_block_too_few_or_too_many(tmp_path: Path) -> None:
    state = pretrained()
    with pytest.raises(CheckpointError, match=r"missing: blocks.2.attn.proj.weight"):
        init_weights(build(), write(without("encoder.blocks.2.attn.proj.weight")(state), tmp_path))
    with pytest.raises(CheckpointError, match=r"unexpected: blocks.3.norm1.bias"):
        init_weights(build(), write(state | {"encoder.blocks.3.norm1.bias": torch.ones(24)}, tmp_path))


def test_parts_with_a_report(tmp_path: Path) -> None:
    """As `--init-partial`: other missing and unexpected names are reported."""
    path = write(without("blocks.1.attn.q_bias")(weights()) | {"extra": torch.ones(1)}, tmp_path)
    report = init_weights(build(), path, strict=False).splitlines()
    assert report[1:] == ["  missing, left as they were: blocks.*.attn.q_bias (1)", "  not used: extra"]
    with pytest.raises(CheckpointError, match="they have no name in common"):
        init_weights(build(), write({"extra": torch.ones(1)}, tmp_path), strict=False)


@pytest.mark.parametrize("layout", ["published", "Hugging Face, q_bias", "Hugging Face, qkv", "wrapped"])
def test_pretraining_where_a_classifier_is_needed(layout: str, tmp_path: Path) -> None:
    path = write(PRETRAINED[layout](pretrained()), tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoint.pth': it holds pre-training weights .* fine-tune from it"):
        read_classifier(path)


@pytest.mark.parametrize("huggingface", [False, True])
def test_a_classifier_where_pretraining_is_needed(huggingface: bool, tmp_path: Path) -> None:
    path = write(to_huggingface(weights(), "qv") if huggingface else weights(), tmp_path)
    torch.manual_seed(7)
    model = VideoMAEForPretraining(TINY)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="it holds a classifier, and pre-training weights are needed"):
        init_weights(model, path)
    assert_equal(dict(model.state_dict()), before)
    report = init_weights(model, path, strict=False)
    assert report.endswith("unexpected, not used: fc_norm.bias, fc_norm.weight, head.bias, head.weight")
    assert torch.equal(model.encoder.blocks[2].attn.q_bias, weights()["blocks.2.attn.q_bias"])


@pytest.mark.parametrize(
    "state, message",
    [
        ({"a": torch.ones(1), "z": torch.ones(1)}, "it holds no classifier .*: its names are 'a' … 'z'"),
        ({"head.weight": torch.ones(5, 24)}, "it holds no classifier"),
        ({"vision_encoder.pos_embed": torch.ones(1)}, "it holds no classifier .* evaluate with task zeroshot"),
        (without("fc_norm.weight")(weights()), "it has no fc_norm"),
        (without("patch_embed.proj.weight")(weights()), "'patch_embed.proj.weight' is missing or misshapen"),
        (weights() | {"patch_embed.proj.weight": torch.ones(20, 3, 2, 8, 8)}, "is 20 wide, which tells no number of"),
        (weights() | {"patch_embed.proj.weight": torch.ones(24, 1, 2, 8, 8)}, "takes 1 channels: published models"),
    ],
)
def test_no_classifier(state: State, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"checkpoint.pth': .*{message}"):
        read_classifier(write(state, tmp_path), num_frames=4, image_size=16)


def test_other_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth' does not exist"):
        read_classifier(tmp_path / "nowhere.pth")
    path = write(weights(), tmp_path)
    with pytest.raises(ValueError, match="must be multiples"):
        read_classifier(path, num_frames=4, image_size=17)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json', beside the weights, is not JSON"):
        read_classifier(path)


def folder_of_transformers(tmp_path: Path, **settings: Any) -> Path:
    write_safetensors(to_huggingface(weights(), "qv"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_frames": 4, "image_size": 16} | settings))
    return tmp_path


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"num_attention_heads": 8},
            "has 8 attention heads for a width of 24; the published model of this width has 3",
        ),
        ({"num_attention_heads": 7}, "has num_attention_heads 7, which does not divide a width of 24"),
        ({"num_attention_heads": "3"}, "has num_attention_heads '3', which"),
        ({"hidden_act": "relu"}, "has hidden_act 'relu'; this library's models have 'gelu'"),
    ],
)
def test_settings_of_another_model(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Weights do not show the number of heads; a converter of transformers gave ViT-S 16 of them."""
    folder = folder_of_transformers(tmp_path, **settings)
    with pytest.raises(CheckpointError, match=f"config.json {message}"):
        read_classifier(folder)
    with pytest.raises(CheckpointError, match=f"config.json {message}"):
        init_weights(build(), folder)


def test_sixteen_heads_of_small() -> None:
    from videomae_fast.interop.huggingface.config import check_huggingface_config

    with pytest.raises(CheckpointError, match=r"16 attention heads for a width of 384; .* has 6"):
        check_huggingface_config({"num_attention_heads": 16}, 384)


def test_heads_of_a_width_that_is_not_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(CONFIGS, "tiny")
    folder = folder_of_transformers(tmp_path, num_attention_heads=3)
    found = read_classifier(folder)
    assert (found.config.encoder_heads, found.config.encoder_dim, found.positions) == (3, 24, "sinusoid")
    assert_equal(dict(found.build().state_dict()), weights())
    folder_of_transformers(tmp_path, num_attention_heads=4)
    with pytest.raises(CheckpointError, match=r"config.json has 4 attention heads, the model 3"):
        init_weights(build(), folder)


@pytest.mark.parametrize(
    "labels, names",
    [
        ({str(i): name for i, name in enumerate("edcba")}, tuple("edcba")),
        ({str(i): f"LABEL_{i}" for i in range(5)}, None),
        ({"0": "a", "1": "b"}, "the files beside it name 2 classes, the head has 5"),
        ({str(i): f"class {i}" for i in range(7)}, "the files beside it name 7 classes, the head has 5"),
        ({"a": 0, "b": 1, "c": 2, "d": 3, "e": 4}, "does not name classes 0 to 4, one each"),
    ],
)
def test_names_of_transformers(labels: dict[str, Any], names: Any, tmp_path: Path) -> None:
    folder = folder_of_transformers(tmp_path, id2label=labels)
    if isinstance(names, str):
        with pytest.raises(CheckpointError, match=re.escape(names)):
            read_classifier(folder)
    else:
        assert read_classifier(folder).class_names == names


@pytest.mark.parametrize("mean, std, warns", [(IMAGENET_MEAN, IMAGENET_STD, False), ([0.5] * 3, [0.5] * 3, True)])
def test_normalisation_of_transformers(mean: Any, std: Any, warns: bool, tmp_path: Path) -> None:
    folder = folder_of_transformers(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_classifier(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": std}))
        if not warns:
            read_classifier(folder)
            return
    for read in (read_classifier, lambda folder: init_weights(build(), folder)):
        with pytest.warns(UserWarning, match=r"image_mean \[0.5, 0.5, 0.5\] and image_std .*normalises by \(0.485, "):
            read(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": 0.5}')
    with pytest.warns(UserWarning, match="image_mean 0.5 and image_std None"):
        read_classifier(folder)


def test_saved_by_the_published_code(tmp_path: Path) -> None:
    """A classifier saved by this library is one for the published model."""
    from benchmarks.baselines.published import PublishedClassifier

    model = build()
    save_published(model, tmp_path / "checkpoint-0.pth", epoch=0)
    published = PublishedClassifier.from_config(TINY, 5)
    published.load_state_dict(torch.load(tmp_path / "checkpoint-0.pth", weights_only=True)["model"])
