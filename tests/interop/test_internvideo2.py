"""Weights of InternVideo2: in every wrapper, for other clips, as a start of each kind of model, and what is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining
from videomae_fast.interop import (
    CheckpointError,
    convert,
    init_weights,
    internvideo2_config_of,
    load_published,
    read_classifier,
    read_feature_model,
    save_published,
)
from videomae_fast.models import (
    INTERNVIDEO2_CONFIGS,
    AlignmentHeads,
    InternVideo2,
    InternVideo2Config,
    InternVideo2ForAlignment,
    InternVideo2ForClassification,
)

TINY = InternVideo2Config(
    32, 3, 2, mlp_ratio=3.0, pool_heads=4, clip_embed_dim=20, patch_size=112, num_frames=4, image_size=(224, 224)
)
HEADS = AlignmentHeads((1, 2), image_dim=12, pooled_dim=10, video_layers=(2,), video_dim=14)
DISTILLED = AlignmentHeads((1, 2), image_dim=12, image_mlp=True, pooled_dim=10)
OTHER_CLIPS = replace(TINY, num_frames=6, image_size=(336, 448))
State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def known_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INTERNVIDEO2_CONFIGS, "tiny", TINY)


def weights(kind: Any = "aligned", seed: int = 1, config: InternVideo2Config = TINY) -> State:
    """A state dict with every tensor different from zero and one."""
    torch.manual_seed(seed)
    return {name: t + 0.1 * torch.randn_like(t) for name, t in build(kind, config).state_dict().items()}


def build(kind: Any = "aligned", config: InternVideo2Config = TINY) -> InternVideo2:
    if kind == "classifier":
        return InternVideo2ForClassification(config, 5)
    if kind == "encoder":
        return InternVideo2(config)
    return InternVideo2ForAlignment(config, HEADS if kind == "aligned" else kind)


def write(state: Any, folder: Path, **settings: Any) -> Path:
    torch.save(state, folder / "pretrain.pth")
    if settings:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder / "pretrain.pth"


def clip_for(config: InternVideo2Config = TINY) -> Tensor:
    torch.manual_seed(4)
    return torch.randn(1, 3, config.num_frames, *config.image_size)


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "DeepSpeed": lambda state: {"module": state, "global_steps": 7},
    "DDP, compiled": lambda state: {"model": {f"module._orig_mod.{name}": t for name, t in state.items()}},
    "encoder": lambda state: {f"encoder.{name}": t for name, t in state.items()},
    "bfloat16": lambda state: {name: t.bfloat16() for name, t in state.items()},
}


@pytest.mark.parametrize("kind", ["aligned", "classifier", DISTILLED], ids=["stage 1", "fine-tuned", "distilled"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper(wrapper: str, kind: Any, tmp_path: Path) -> None:
    state, model = weights(kind), build(kind)
    assert init_weights(model, write(WRAPPERS[wrapper](state), tmp_path)) == ""
    for name, tensor in model.state_dict().items():
        expected = state[name].bfloat16().float() if wrapper == "bfloat16" else state[name]
        assert torch.equal(tensor, expected), name


def test_what_we_save_is_the_published_layout(tmp_path: Path) -> None:
    model = build()
    save_published(model, tmp_path / "checkpoint-0.pth")
    state = load_published(tmp_path / "checkpoint-0.pth")
    assert state.keys() == weights().keys()
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("kind", ["aligned", "classifier"])
def test_configuration_from_shapes(kind: str) -> None:
    state = weights(kind)
    assert internvideo2_config_of(state) == replace(TINY, encoder_depth=3)
    assert internvideo2_config_of(state, 4) == internvideo2_config_of(state, 4, (224, 224)) == TINY
    assert internvideo2_config_of(state, 8, (112, 224)) == replace(TINY, num_frames=8, image_size=(112, 224))
    assert internvideo2_config_of(state, 1) == replace(TINY, num_frames=1, image_size=(448, 448))
    wide = weights(kind, config=OTHER_CLIPS)
    assert internvideo2_config_of(wide, image_size=(336, 448)) == OTHER_CLIPS


@pytest.mark.parametrize("size", ["small", "base", "large", "1b", "6b"])
def test_published_sizes_are_found(size: str) -> None:
    config = replace(INTERNVIDEO2_CONFIGS[size], encoder_depth=1)
    with torch.device("meta"):
        state = InternVideo2(config).state_dict()
    assert internvideo2_config_of(state) == config


def published_interpolation(table: Tensor, cls: int, frames: int) -> Tensor:
    """By the published order, time before space, for a table of 4x2x2 tokens."""
    first, rows = table[:, :cls], table[0, cls:].view(4, 2, 2, 32)
    rows = F.interpolate(rows.permute(1, 2, 3, 0).flatten(0, 1), frames, mode="linear")
    rows = rows.view(2, 2, 32, frames).permute(3, 2, 0, 1)
    rows = F.interpolate(rows, (3, 4), mode="bicubic", align_corners=False)
    return torch.cat([first, rows.permute(0, 2, 3, 1).reshape(1, -1, 32)], dim=1)


def test_tables_are_interpolated_for_other_clips(tmp_path: Path) -> None:
    state, model = weights(), build(config=OTHER_CLIPS)
    report = init_weights(model, write(state, tmp_path))
    assert "interpolated to 6x3x4 tokens: pos_embed, clip_pos_embed, mae_pos_embed" in report
    found = model.state_dict()
    for name, cls in (("pos_embed", 1), ("clip_pos_embed", 1), ("mae_pos_embed", 0)):
        expected = published_interpolation(state[name], cls, 6)
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
    others = [name for name in found if "pos_embed" not in name]
    assert all(torch.equal(found[name], state[name]) for name in others)
    classifier = build("classifier", OTHER_CLIPS)
    report = init_weights(classifier, tmp_path / "pretrain.pth")
    assert "interpolated to 6x3x4 tokens: pos_embed\n" in report + "\n"


def test_the_clips_of_the_weights_are_told_beside_them(tmp_path: Path) -> None:
    """16 tokens are 4 frames of 224x224 pixels unless config.json tells otherwise, or they do not divide."""
    state, model = weights(), build(config=replace(TINY, num_frames=8, image_size=(112, 224)))
    path = write(state, tmp_path)
    assert "interpolated to 8x1x2 tokens" in init_weights(model, path)
    write(state, tmp_path, num_frames=8, image_size=[112, 224])
    assert init_weights(model, path) == "" and torch.equal(model.pos_embed, state["pos_embed"])
    other = replace(TINY, num_frames=3, image_size=(112, 336))
    nine, model = weights(config=other), build(config=other)
    (tmp_path / "config.json").unlink()
    assert init_weights(model, write(nine, tmp_path)) == "" and torch.equal(model.pos_embed, nine["pos_embed"])


def test_a_classifier_starts_from_an_aligned_student(tmp_path: Path) -> None:
    state, model = weights(), build("classifier")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    report = init_weights(model, write(state, tmp_path))
    ends = ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
    assert report.splitlines()[0].startswith("57 of 61 tensors of InternVideo2ForClassification are from")
    assert "new, left as they were: fc_norm.weight, fc_norm.bias, head.weight, head.bias" in report
    not_used = next(line for line in report.splitlines() if "not used" in line)
    assert "clip_decoder.*.head.weight (2)" in not_used and "mae_pos_embed" in not_used
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if name in ends else state[name]), name
    clip = clip_for()
    aligned = build()
    aligned.load_state_dict(state)
    torch.testing.assert_close(model.tokens(clip), aligned.tokens(clip))


def test_a_student_without_pool_leaves_the_classifiers_new(tmp_path: Path) -> None:
    heads = AlignmentHeads((2,), image_dim=12, pooled_dim=None)
    model = build("classifier")
    report = init_weights(model, write(weights(heads), tmp_path))
    new = next(line for line in report.splitlines() if "new" in line)
    assert "clip_projector.norm1_q.weight" in new and "head.bias" in new
    encoder = read_feature_model(tmp_path / "pretrain.pth")
    assert encoder.clip_projector is None and encoder.tokens(clip_for()).shape == (1, 16, 32)


def test_a_classifier_starts_from_another(tmp_path: Path) -> None:
    state = weights("classifier")
    path = write(state, tmp_path)
    model = InternVideo2ForClassification(TINY, 3)
    report = init_weights(model, path)
    assert "(the head of the file has 5 classes, that of the model 3): head.weight, head.bias" in report
    init_weights(model, path, rows=[4, 0, 2])
    assert torch.equal(model.head.weight, state["head.weight"][[4, 0, 2]])
    with pytest.raises(ValueError, match="rows are for a classifier, not for a InternVideo2ForAlignment"):
        init_weights(build(), path, rows=[1])


def test_classifiers_are_read(tmp_path: Path) -> None:
    state = weights("classifier")
    found = read_classifier(write({"module": state}, tmp_path))
    assert found.config == TINY and found.num_classes == 5 and found.origin == "from the weights"
    model = build("classifier")
    model.load_state_dict(state)
    clip = clip_for()
    torch.testing.assert_close(found.build(attention="sdpa").eval()(clip), model.eval()(clip))
    longer = read_classifier(tmp_path / "pretrain.pth", num_frames=6, image_size=(336, 448)).build()
    assert longer.config == OTHER_CLIPS and longer(clip_for(OTHER_CLIPS)).shape == (1, 5)
    torch.testing.assert_close(read_feature_model(tmp_path / "pretrain.pth").features(clip), model.features(clip))
    (tmp_path / "classes.json").write_text(json.dumps(["a", "b"]))
    with pytest.raises(CheckpointError, match="name 2 classes, the head has 5"):
        read_classifier(tmp_path / "pretrain.pth")


def test_features_of_stage_1(tmp_path: Path) -> None:
    """The encoder with its pool; heads are dropped, whatever they are."""
    model = build()
    model.load_state_dict(weights())
    path, clip = write(weights(), tmp_path), clip_for()
    found = read_feature_model(path)
    assert type(found) is InternVideo2 and not found.training
    torch.testing.assert_close(found.features(clip), model.features(clip))
    torch.testing.assert_close(found.tokens(clip), model.tokens(clip))
    assert read_feature_model(path, num_frames=6, image_size=(336, 448)).config == OTHER_CLIPS


REFUSED: list[tuple[Callable[[State], Any], str]] = [
    (
        lambda s: s | {"pos_embed": s["pos_embed"][:, 1:]},
        "clip_pos_embed must be (1, 16, 32) beside a pos_embed (1, 16",
    ),
    (
        lambda s: {n: t[:, 1:] if n in ("pos_embed", "clip_pos_embed", "mae_pos_embed") else t for n, t in s.items()},
        "the position table has 15 rows besides that of the cls token, which do not make clips of 224x224 pixels (2x2 ",
    ),
    (
        lambda s: {n: t for n, t in s.items() if n != "cls_token"},
        "beside a cls_token (1, 1, 32), got (1, 17, 32) and non",
    ),
    (lambda s: s | {"pos_embed_spatial": s["pos_embed"]}, "separate tables for space and time (sep_pos_embed)"),
    (lambda s: {n: t for n, t in s.items() if n != "blocks.2.ls1.gamma"}, "missing: blocks.2.ls1.gamma"),
    (lambda s: s | {"extra.weight": s["cls_token"]}, "unexpected: extra.weight"),
    (lambda s: s | {"blocks.1.norm1.weight": s["cls_token"]}, "of another shape, as in a checkpoint of another size"),
    (
        lambda s: {n: t for n, t in s.items() if ".q_norm." not in n},
        "it holds no InternVideo2 (blocks with q_norm and ls1)",
    ),
    (lambda s: weights("classifier"), "it holds a classifier, and an aligned student is needed"),
    (lambda s: weights(DISTILLED), "missing: clip_decoder.0.head.bias"),
]


@pytest.mark.parametrize("change, message", REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_refused(change: Callable[[State], Any], message: str, tmp_path: Path) -> None:
    model = build()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.escape(message)):
        init_weights(model, write(change(weights()), tmp_path))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_settings_that_do_not_fit_the_table(tmp_path: Path) -> None:
    path = write(weights(), tmp_path, num_frames=5, image_size=224)
    for read in (init_weights_of_ours, read_feature_model):
        with pytest.raises(CheckpointError, match="which do not make clips of 5 frames of 224x224 pixels"):
            read(path)


def init_weights_of_ours(path: Path) -> str:
    return init_weights(build(), path)


def test_models_of_other_kinds(tmp_path: Path) -> None:
    """An encoder is no classifier; no other layout; a VideoMAE is no InternVideo2, and the other way round."""
    path = write(weights(), tmp_path)
    with pytest.raises(CheckpointError, match=r"a classifier is needed \(missing: fc_norm.bias"):
        read_classifier(path)
    for layout in ("huggingface", "published"):
        with pytest.raises(ValueError, match="is an InternVideo2, which transformers does not have"):
            convert(path, tmp_path / "other", layout)
    small = VideoMAEConfig(32, 2, 2, 16, 2, decoder_depth=1, patch_size=8, num_frames=4, image_size=(16, 16))
    theirs = VideoMAEForPretraining(small)
    with pytest.raises(CheckpointError):
        init_weights(theirs, path)
    save_published(theirs, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match="it holds no InternVideo2"):
        init_weights(build(), tmp_path / "theirs.pth")


def test_errors_of_shapes() -> None:
    state = weights()
    with pytest.raises(CheckpointError, match="48 wide, which tells no number of attention heads: known are 128, "):
        internvideo2_config_of({**state, "patch_embed.proj.weight": torch.empty(48, 3, 1, 14, 14)})
    with pytest.raises(CheckpointError, match="takes 1 channels"):
        internvideo2_config_of({**state, "patch_embed.proj.weight": torch.empty(32, 1, 1, 14, 14)})
    with pytest.raises(CheckpointError, match="not a checkpoint of InternVideo2: 'patch_embed"):
        internvideo2_config_of({})
