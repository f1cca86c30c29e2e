"""Dual encoders start from VideoMAE, InternVideo2, image encoders, BERT, and from runs of their own."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from tests.interop.models import disturb, hugging_face
from tests.models.test_layers import randomise
from videomae_fast import VideoMAEConfig, VideoMAEForPretraining
from videomae_fast.interop import (
    CheckpointError,
    init_split_bert,
    init_video_text,
    init_video_tower,
    read_text_tower,
    read_tokenizer,
    split_bert_config,
)
from videomae_fast.interop.huggingface.text import new_text_model
from videomae_fast.models import (
    AlignmentHeads,
    InternVideo2Config,
    InternVideo2ForAlignment,
    InternVideo2Tower,
    SplitBert,
    SplitBertConfig,
    TextTower,
    VideoTextFusionModel,
    VideoTextModel,
    VideoTransformer,
)
from videomae_fast.models.config import INTERNVIDEO2_CONFIGS
from videomae_fast.models.positions import interpolate_positions, interpolated_sinusoid, sinusoid_table

TINY = VideoMAEConfig(24, 2, 3, 16, 2, mlp_ratio=2.0, patch_size=8, num_frames=8, image_size=(32, 32))
STUDENT = InternVideo2Config(
    32, 2, 2, mlp_ratio=3.0, pool_heads=4, clip_embed_dim=20, patch_size=112, num_frames=4, image_size=(224, 224)
)
BERT = SplitBertConfig(16, 3, 2, text_layers=2, hidden=24, vocab_size=12, max_length=8, cls_id=2, mask_id=4)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "runs", "##ning", "cat", "sleeps", "."]


@pytest.fixture(autouse=True)
def known_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INTERNVIDEO2_CONFIGS, "tiny", STUDENT)


def write(state: Any, folder: Path, name: str = "pytorch_model.bin", **settings: Any) -> Path:
    torch.save({key: tensor.clone() for key, tensor in state.items()}, folder / name)
    if settings:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder / name


def pixels(frames: int = 8, side: int = 32) -> Tensor:
    torch.manual_seed(4)
    return torch.randn(2, 3, frames, side, side)


def image_encoder(kind: str, folder: Path, **changes: Any) -> Any:
    """A vision model of transformers with the activation and the epsilon of ours, saved in a folder."""
    config: Any = getattr(transformers, f"{kind}Config")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    same = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    model = disturb(getattr(transformers, f"{kind}Model")(config(**(sizes | same | changes)))).eval()
    model.save_pretrained(folder)  # type: ignore[operator]
    return model


def test_a_tower_starts_from_videomae(tmp_path: Path) -> None:
    pretrained = disturb(VideoMAEForPretraining(TINY))
    path = write(pretrained.state_dict(), tmp_path, num_frames=8, image_size=32)
    tower = VideoTransformer(TINY)
    report = init_video_tower(tower, path)
    assert report.splitlines()[0].startswith(f"{len(tower.state_dict())} of {len(tower.state_dict())} tensors of Video")
    assert "made from the sinusoid and the kernel of clips: pos_embed, image_embed.proj.weight" in report
    assert "not used: " in report and "decoder.blocks.*.norm1.weight (4)" in report
    assert torch.equal(tower(pixels()).tokens, pretrained.encoder.tokens(pixels()))  # type: ignore[union-attr,operator]
    frame = pixels(1)
    tower.pos_embed.data.zero_()
    still = tower.patch_embed(frame.expand(-1, -1, 8, -1, -1), torch.arange(16).expand(2, -1), tower.pos_embed[0])
    image = tower.image_embed(frame, torch.arange(16).expand(2, -1), tower.pos_embed[0, :16])
    torch.testing.assert_close(image, still)
    with_pool = VideoTransformer(replace(TINY, num_frames=32), pool="attention")
    report = init_video_tower(with_pool, path)
    assert "new, left as they were: clip_projector.norm1_q.weight" in report
    expected = interpolated_sinusoid((4, 4, 4), (16, 4, 4), 24)
    assert torch.equal(with_pool.pos_embed[0], expected)


def test_a_tower_starts_from_videomae_of_transformers(tmp_path: Path) -> None:
    their = hugging_face(use_mean_pooling=False)
    their.save_pretrained(tmp_path)
    tower = VideoTransformer(replace(TINY, norm_eps=1e-12))
    init_video_tower(tower, tmp_path)
    found = their.videomae.eval()(pixels().transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(tower(pixels()).tokens, found, rtol=1e-4, atol=1e-5)
    assert torch.equal(tower.pos_embed[0], sinusoid_table(64, 24))


def test_an_image_encoder_without_cls_token_is_computed_exactly(tmp_path: Path) -> None:
    their = image_encoder("SiglipVision", tmp_path)
    tower = VideoTransformer(TINY)
    report = init_video_tower(tower, tmp_path)
    expected = their(pixel_values=pixels(1)[:, :, 0]).last_hidden_state
    torch.testing.assert_close(tower(pixels(1)).tokens, expected, rtol=1e-4, atol=1e-5)
    assert "made from those of images: patch_embed.proj.weight, patch_embed.proj.bias, pos_embed" in report
    assert "not used: head.attention.in_proj_bias" in report and "computed otherwise" not in report
    assert torch.equal(tower.pos_embed, tower.pos_embed[:, :16].repeat(1, 4, 1))
    kernel = tower.patch_embed.proj.weight
    assert torch.equal(kernel[:, :, 0], kernel[:, :, 1]) and torch.equal(
        2 * kernel[:, :, 0], tower.image_embed.proj.weight[:, :, 0]
    )


def test_a_vit_is_computed_exactly_but_for_its_cls_token(tmp_path: Path) -> None:
    their = image_encoder("ViT", tmp_path)
    tower = VideoTransformer(TINY)
    report = init_video_tower(tower, tmp_path)
    x = their.embeddings(pixels(1)[:, :, 0])[:, 1:]
    for layer in their.layers if hasattr(their, "layers") else their.encoder.layer:
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
    torch.testing.assert_close(tower(pixels(1)).tokens, their.layernorm(x), rtol=1e-4, atol=1e-5)
    assert "not used: embeddings.cls_token, pooler.dense.bias, pooler.dense.weight" in report


def test_differences_of_clip_are_told(tmp_path: Path) -> None:
    image_encoder("CLIPVision", tmp_path, hidden_act="quick_gelu", layer_norm_eps=1e-5)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    report = init_video_tower(VideoTransformer(TINY), tmp_path)
    assert "not used: embeddings.class_embedding, pre_layrnorm.bias, pre_layrnorm.weight" in report
    assert "hidden_act quick_gelu of the file, gelu here, layer_norm_eps 1e-05 of the file, 1e-06 here" in report
    assert "image_mean [0.5, 0.5, 0.5] of the file" in report and "image_std" in report


def test_positions_of_an_image_are_interpolated(tmp_path: Path) -> None:
    their = image_encoder("SiglipVision", tmp_path)
    tower = VideoTransformer(replace(TINY, image_size=(48, 64), num_frames=4))
    init_video_tower(tower, tmp_path)
    table = their.state_dict()
    name = next(name for name in table if name.endswith("position_embedding.weight"))
    expected = interpolate_positions(table[name], (1, 4, 4), (1, 6, 8)).repeat(2, 1)
    assert torch.equal(tower.pos_embed[0], expected)


def aligned() -> InternVideo2ForAlignment:
    heads = AlignmentHeads((0, 1), image_dim=12, pooled_dim=10, video_layers=(1,), video_dim=14)
    model = disturb(InternVideo2ForAlignment(STUDENT, heads))
    assert isinstance(model, InternVideo2ForAlignment)
    return model


def test_a_tower_starts_from_an_aligned_student(tmp_path: Path) -> None:
    student = aligned()
    path = write(student.state_dict(), tmp_path)
    tower = InternVideo2Tower(STUDENT)
    report = init_video_tower(tower, path)
    clip = pixels(4, 224)
    assert torch.equal(tower(clip).pooled, student.features(clip))
    assert "the mean over time of pos_embed: img_pos_embed" in report and "clip_decoder.*.head.weight (2)" in report
    rows = student.pos_embed[0, 1:].view(4, 4, 32).mean(0)
    torch.testing.assert_close(tower.img_pos_embed[0], torch.cat([student.pos_embed[0, :1], rows]))
    longer = InternVideo2Tower(replace(STUDENT, num_frames=8))
    assert "interpolated to 8x2x2 tokens: pos_embed" in init_video_tower(longer, path)
    expected = F.interpolate(student.pos_embed[0, 1:].view(1, 4, -1).mT, 8, mode="linear").mT.reshape(-1, 32)
    torch.testing.assert_close(longer.pos_embed[0, 1:], expected)
    without_pool = InternVideo2Tower(STUDENT, pool="mean")
    assert "clip_projector.norm1_q.weight" in init_video_tower(without_pool, path).partition("not used: ")[2]
    torch.testing.assert_close(without_pool(clip).pooled, student.tokens(clip).mean(1))


def second_stage(config: InternVideo2Config = STUDENT) -> VideoTextFusionModel:
    tower = InternVideo2Tower(config)
    return VideoTextFusionModel(tower, SplitBert(BERT, 32), 6)


def published(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of the second stage holds beside the model's tensors."""
    state = dict(model.state_dict())
    words = state["text_encoder.bert.embeddings.word_embeddings.weight"]
    extra = {name: t for name, t in aligned().state_dict().items() if name.startswith(("clip_dec", "clip_pos"))}
    return state | {
        **{f"vision_encoder.{name}": tensor for name, tensor in extra.items()},
        "vision_encoder.clip_img_pos_embed": torch.zeros(1, 5, 32),
        "text_encoder.bert.embeddings.position_ids": torch.arange(8)[None],
        "text_encoder.cls.predictions.decoder.weight": words,
        "text_encoder.cls.predictions.decoder.bias": state["text_encoder.cls.predictions.bias"],
    }


def test_the_second_stage_is_read(tmp_path: Path) -> None:
    original = disturb(second_stage())
    path = write(published(original), tmp_path)
    model = second_stage()
    report = init_video_text(model, path)
    total = len(model.state_dict())
    assert report.startswith(f"{total} of {total} tensors of VideoTextFusionModel are from")
    assert "clip_img_pos_embed" in report and "bert.embeddings.position_ids" in report and "new" not in report
    assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in model.state_dict().items())
    larger = second_stage(replace(STUDENT, num_frames=8, image_size=(336, 448)))
    report = init_video_text(larger, path)
    assert "interpolated to 8x3x4 tokens: vision_encoder.pos_embed, vision_encoder.img_pos_embed" in report
    tower, text = InternVideo2Tower(STUDENT), SplitBert(BERT, 32)
    init_video_tower(tower, path)
    init_split_bert(text, path)
    assert torch.equal(tower.img_pos_embed, original.get_parameter("vision_encoder.img_pos_embed"))
    assert torch.equal(text.cls["predictions"].bias, original.get_parameter("text_encoder.cls.predictions.bias"))  # type: ignore[arg-type]


def dual(config: VideoMAEConfig = TINY) -> VideoTextModel:
    bert = transformers.BertModel(transformers.BertConfig(**their_sizes()))
    return VideoTextModel(VideoTransformer(config), TextTower(bert), 6)


def their_sizes(**changes: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    return {**sizes, "vocab_size": 12, "max_position_embeddings": 8, **changes}


def test_a_run_goes_on_with_longer_clips(tmp_path: Path) -> None:
    original = disturb(dual())
    path = write(original.state_dict(), tmp_path, num_frames=8, image_size=32)
    same, longer = dual(), dual(replace(TINY, num_frames=32))
    assert init_video_text(same, path) == ""
    assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in same.state_dict().items())
    assert "interpolated to 16x4x4 tokens: vision_encoder.pos_embed" in init_video_text(longer, path)
    table = original.get_parameter("vision_encoder.pos_embed")[0]
    assert torch.equal(
        longer.get_parameter("vision_encoder.pos_embed")[0], interpolate_positions(table, (4, 4, 4), (16, 4, 4))
    )
    tower = VideoTransformer(TINY)
    assert init_video_tower(tower, path) == ""


def bert_folder(folder: Path, kind: str = "BertForPreTraining", **changes: Any) -> Any:
    torch.manual_seed(0)
    model: Any = disturb(getattr(transformers, kind)(transformers.BertConfig(**their_sizes(**changes))))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return model


def test_a_split_bert_starts_from_bert(tmp_path: Path) -> None:
    their = bert_folder(tmp_path)
    model = SplitBert(BERT, 32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = init_split_bert(model, tmp_path)
    assert "new, left as they were: bert.encoder.layer.*.crossattention.self.query.weight" in report
    assert "not used: bert.pooler.dense.bias, bert.pooler.dense.weight, cls.seq_relationship.bias" in report
    known = their.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if "crossattention" in name else known[name]), name


def test_the_first_names_of_bert_and_those_without_a_head(tmp_path: Path) -> None:
    their = bert_folder(tmp_path, "BertModel")  # as MiniLM's
    model = SplitBert(BERT, 32)
    report = init_split_bert(model, tmp_path)
    assert "cls.predictions.transform.dense.weight" in report.splitlines()[1]
    old = {f"bert.{name}": tensor for name, tensor in their.state_dict().items() if "position_ids" not in name}
    old = {re.sub("LayerNorm.weight$", "LayerNorm.gamma", name): tensor for name, tensor in old.items()}
    old = {re.sub("LayerNorm.bias$", "LayerNorm.beta", name): tensor for name, tensor in old.items()}
    other = SplitBert(BERT, 32)
    init_split_bert(other, write(old, tmp_path, "old.pth"))
    shared = [name for name in other.state_dict() if "crossattention" not in name and not name.startswith("cls.")]
    assert all(torch.equal(other.state_dict()[name], model.state_dict()[name]) for name in shared)


def test_text_towers_tokenizers_and_configurations_are_read(tmp_path: Path) -> None:
    their = bert_folder(tmp_path, "BertModel")
    tower = read_text_tower(tmp_path, "first").eval()
    tokenizer = read_tokenizer(tmp_path, tower.vocab_size)
    batch = tokenizer(["a dog running .", "a cat"], padding=True, return_tensors="pt")
    rows = tower(batch["input_ids"], batch["attention_mask"])
    expected = their.eval()(**batch).last_hidden_state
    torch.testing.assert_close(rows.pooled, expected[:, 0])
    config = split_bert_config(tmp_path, 2, tokenizer, dropout=0.0, pool="mean")
    assert config == replace(BERT, dropout=0.0, pool="mean")
    split = SplitBert(config, 32).eval()
    init_split_bert(split, tmp_path)
    assert split(batch["input_ids"], batch["attention_mask"]).tokens.shape == expected.shape
    with pytest.raises(ValueError, match="tokenizer has 12 tokens, and the text model 11: it is of another model"):
        read_tokenizer(tmp_path, 11)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"has no config\.json of BERT"):
        split_bert_config(empty, 2, tokenizer)
    with pytest.raises(CheckpointError, match="is no folder with a text model"):
        read_text_tower(tmp_path / "vocab.txt")


@pytest.mark.parametrize("name", ["SiglipTextModel", "CLIPTextModel"])
@pytest.mark.parametrize("whole", [False, True], ids=["bare", "whole"])
def test_text_models_of_image_encoders(name: str, whole: bool, tmp_path: Path) -> None:
    """Saved alone, or in the model of images and texts; also without weights."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    text = sizes | {"vocab_size": 40, "max_position_embeddings": 8, "projection_size": 16, "eos_token_id": 39}
    family, ids, mask = name.removesuffix("TextModel"), torch.tensor([[3, 7, 39, 0]]), torch.tensor([[1, 1, 1, 0]])
    if whole:
        vision = sizes | {"image_size": 16, "patch_size": 8}
        config = getattr(transformers, f"{family}Config")(text_config=text, vision_config=vision)
        saved = randomise(getattr(transformers, f"{family}Model")(config)).float().eval()
    else:
        config = getattr(transformers, f"{family}TextConfig")(**text)
        saved = randomise(getattr(transformers, name)(config)).float().eval()
    saved.save_pretrained(tmp_path)
    expected = (saved.text_model if whole else saved)(input_ids=ids, attention_mask=mask).last_hidden_state
    tower = read_text_tower(tmp_path).eval()
    torch.testing.assert_close(tower(ids, mask).tokens, expected)
    tower(ids, mask).pooled.sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())
    found = TextTower(new_text_model(tmp_path)).state_dict()
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in tower.state_dict().items()}


def test_text_models_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
    """A damaged file, a model that AutoModel does not know, and one whose code is in the folder, which does not run."""
    bert_folder(tmp_path, "BertModel")
    (tmp_path / "model.safetensors").write_bytes(b"half")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    own = {"model_type": "own", "auto_map": {name: "own.Own" for name in ("AutoConfig", "AutoModel", "AutoTokenizer")}}
    for changes in ({}, {"model_type": "altclip_text_model"}, own):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(CheckpointError, match=r"is no model that transformers reads: \S") as refused:
            read_text_tower(tmp_path)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 800
    with pytest.raises(CheckpointError, match="has no tokenizer that transformers reads"):
        read_tokenizer(tmp_path, 12)
    assert not (tmp_path / "ran").exists()


def change(**changed: Any) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {**state, **{name.replace("__", "."): tensor for name, tensor in changed.items()}}


BERT_REFUSED: list[tuple[Callable[[dict[str, Tensor]], Any], dict[str, Any], str]] = [
    (change(cls__predictions__decoder__weight=torch.ones(12, 16)), {}, "decoder.weight is not the word embedding"),
    (change(cls__predictions__decoder__bias=torch.ones(12)), {}, "decoder.bias is not cls.predictions.bias"),
    (change(cls__other=torch.ones(1)), {}, "unexpected: cls.other"),
    (lambda state: {"a": torch.ones(1)}, {}, "it holds no BERT: its names are 'a' … 'a'"),
    (lambda state: {n: t for n, t in state.items() if "layer.2" not in n}, {}, "missing: bert.encoder.layer.2.atten"),
    (change(), {"num_attention_heads": 4}, "config.json has num_attention_heads 4, the model 2"),
    (change(), {"hidden_act": "relu"}, "config.json has hidden_act relu, the model gelu"),
    (change(), {"position_embedding_type": "relative_key"}, "config.json has relative positions"),
    (lambda s: s | {"embeddings.LayerNorm.bias": torch.ones(16)}, {}, "it holds some names twice"),
    (lambda s: s | {"bert.embeddings.word_embeddings.weight": torch.ones(13, 16)}, {}, "(13, 16) in the checkpoint"),
]


@pytest.mark.parametrize(("edit", "settings", "message"), BERT_REFUSED, ids=[each[2][:30] for each in BERT_REFUSED])
def test_what_no_split_bert_is(
    edit: Callable[[dict[str, Tensor]], Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = SplitBert(BERT, 32)
    state = edit(dict(model.state_dict()))
    target = SplitBert(BERT, 32)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.escape(message)):
        init_split_bert(target, write(state, tmp_path, **settings))
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def towers() -> dict[str, nn.Module]:
    return {"ours": VideoTransformer(TINY), "student": InternVideo2Tower(STUDENT)}


TOWER_REFUSED: list[tuple[str, Callable[[], dict[str, Tensor]], dict[str, Any], str]] = [
    ("ours", lambda: aligned().state_dict(), {}, "known are VideoMAE's pre-training weights, image encoders"),
    ("student", lambda: VideoMAEForPretraining(TINY).state_dict(), {}, "known are InternVideo2's first and second"),
    ("ours", lambda: VideoMAEForPretraining(TINY).state_dict(), {"num_attention_heads": 2}, "has 2 attention heads"),
    ("ours", lambda: VideoMAEForPretraining(TINY).state_dict(), {"num_frames": 8, "image_size": 36}, "no multiples of"),
    (
        "ours",
        lambda: VideoMAEForPretraining(replace(TINY, encoder_depth=1)).state_dict(),
        {"num_frames": 8, "image_size": 32},
        "missing: blocks.1.attn.proj.bias",
    ),
    (
        "ours",
        lambda: VideoMAEForPretraining(replace(TINY, patch_size=16)).state_dict(),
        {"num_frames": 8, "image_size": 32},
        "patch_embed.proj.weight is (24, 3, 2, 16, 16) in the checkpoint",
    ),
    ("ours", lambda: VideoTransformer(TINY).state_dict(), {"num_frames": 16}, "which are no clips of (16, 32, 32)"),
    (
        "student",
        lambda: {**InternVideo2Tower(STUDENT).state_dict(), "img_pos_embed": torch.zeros(1, 4, 32)},
        {},
        "img_pos_embed is (1, 4, 32), and its clips have 2x2 tokens a frame",
    ),
]


@pytest.mark.parametrize(
    ("name", "make", "settings", "message"), TOWER_REFUSED, ids=[each[3][:30] for each in TOWER_REFUSED]
)
def test_what_no_tower_is(
    name: str, make: Callable[[], dict[str, Tensor]], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tower: Any = towers()[name]
    before = {key: tensor.clone() for key, tensor in tower.state_dict().items()}
    with pytest.raises(CheckpointError, match=re.escape(message)):
        init_video_tower(tower, write(make(), tmp_path, **settings))
    assert all(torch.equal(tensor, before[key]) for key, tensor in tower.state_dict().items())


IMAGE_REFUSED: list[tuple[Callable[[dict[str, Tensor]], Any], dict[str, Any], str]] = [
    (lambda s: None, {"num_attention_heads": 4}, "config.json has 4 attention heads, the tower 3"),
    (lambda s: s.pop("post_layernorm.bias"), {}, "the image encoder lacks post_layernorm.bias"),
    (lambda s: s.update({"embeddings.position_embedding.weight": torch.zeros(19, 24)}), {}, "are no square of 4x4"),
]


@pytest.mark.parametrize(("edit", "settings", "message"), IMAGE_REFUSED, ids=[each[2][:30] for each in IMAGE_REFUSED])
def test_what_no_image_encoder_is(
    edit: Callable[[dict[str, Tensor]], Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    state = image_encoder("SiglipVision", tmp_path).state_dict()
    state = {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}
    edit(state)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=re.escape(message)):
        init_video_tower(VideoTransformer(TINY), write(state, tmp_path, **settings))


def test_a_dual_encoder_is_not_made_of_one_tower(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no name begins with 'vision_encoder\.'"):
        init_video_text(dual(), write(VideoMAEForPretraining(TINY).state_dict(), tmp_path))
    with pytest.raises(FileNotFoundError):
        init_video_text(dual(), tmp_path / "nothing.pth")
