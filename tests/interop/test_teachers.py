"""Teachers read from every layout, on other clips than they were trained on, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.test_layers import randomise
from videomae_fast import VideoMAEForPretraining, get_config
from videomae_fast.interop import CheckpointError, read_guide, read_video_teacher, save_published, to_huggingface
from videomae_fast.interop.huggingface.vision import HuggingFaceGuide
from videomae_fast.models import AlignmentHeads, InternVideo2, InternVideo2ForAlignment, get_internvideo2_config
from videomae_fast.models.guides import InternVideo2Guide
from videomae_fast.models.positions import interpolate_positions

CLIP = dict(num_frames=2, image_size=(28, 42))  # of teachers that saw 224x224 pixels
CONFIG = get_internvideo2_config("small", encoder_depth=3, num_frames=2)
HEADS = AlignmentHeads(image_layers=(1, 2), image_dim=24, pooled_dim=16, video_layers=(2,), video_dim=24)


def make_student(num_frames: int = 2) -> InternVideo2ForAlignment:
    config = get_internvideo2_config("small", encoder_depth=3, num_frames=num_frames)
    return randomise(InternVideo2ForAlignment(config, HEADS)).float()


def encoder_of(state: dict[str, Tensor], table: Tensor, num_frames: int) -> InternVideo2:
    """The encoder of weights with another table."""
    config = get_internvideo2_config("small", encoder_depth=3, num_frames=num_frames, image_size=CLIP["image_size"])
    model = InternVideo2(config)
    own = model.state_dict().keys()
    model.load_state_dict({name: state[name] for name in own if name != "pos_embed"} | {"pos_embed": table})
    return model


def interpolated(table: Tensor, frames: int, to_frames: int) -> Tensor:
    rows = interpolate_positions(table[0, 1:], (frames, 16, 16), (to_frames, 2, 3))
    return torch.cat([table[:, :1], rows[None]], 1)


def make_clip(num_frames: int = 2) -> Tensor:
    size = 2, 3, num_frames, 28, 42
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def assert_sees_the_same(ours: InternVideo2Guide, expected: InternVideo2Guide, num_frames: int = 2) -> None:
    clip = make_clip(num_frames)
    first, second = ours.observe(clip), expected.observe(clip)
    assert torch.equal(first.attention, second.attention) and torch.equal(first.pooled, second.pooled)
    assert all(torch.equal(a, b) for a, b in zip(first.layers, second.layers, strict=True))


@pytest.mark.parametrize(
    "wrapper", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("model", "module")), "stage2", None]
)
def test_internvideo2_of_every_stage(wrapper: str | None, tmp_path: Path) -> None:
    """Heads are left out; of stage 2, text and tables for images too. Positions of 2 frames serve 4."""
    state = make_student().state_dict()
    checkpoint: dict[str, Any] = {wrapper: state} if wrapper else state
    if wrapper == "stage2":
        vision = state | {"img_pos_embed": torch.zeros(1, 257, 384), "clip_img_pos_embed": torch.zeros(1, 257, 384)}
        checkpoint = {"module": {f"vision_encoder.{name}": tensor for name, tensor in vision.items()}}
        checkpoint["module"]["text_encoder.bert.weight"] = torch.zeros(3)
    torch.save(checkpoint, tmp_path / "teacher.pth")
    options = dict(layers=(1, 2), dtype=torch.float32)
    guide = read_guide(tmp_path / "teacher.pth", num_frames=4, image_size=(28, 42), **options)
    assert isinstance(guide, InternVideo2Guide) and guide.views == 1 and guide.grid == (4, 2, 3)
    assert guide.name == "teacher.pth" and guide.pooled_dim == 768
    model = encoder_of(state, interpolated(state["pos_embed"], 2, 4), 4)
    assert_sees_the_same(guide, InternVideo2Guide(model, **options), 4)


def test_internvl_c(tmp_path: Path) -> None:
    """Its kernel has two dimensions, its positions are those of one image, and text models stand beside it."""
    student = make_student(num_frames=1)
    state = student.state_dict()
    image = {
        n: t for n, t in state.items() if n.startswith(("cls_token", "pos_embed", "patch_", "blocks", "clip_proj"))
    }
    image["patch_embed.proj.weight"] = image["patch_embed.proj.weight"].squeeze(2)
    torch.save(
        {"module": image | {"logit_scale": torch.zeros(()), "text.norm.weight": torch.ones(3)}}, tmp_path / "c.pth"
    )
    guide = read_guide(tmp_path / "c.pth", layers=2, dtype=torch.float32, **CLIP)
    assert isinstance(guide, InternVideo2Guide) and guide.views == 2 and guide.layers == (1, 2)
    model = encoder_of(state, interpolated(state["pos_embed"], 1, 1), 1)
    assert_sees_the_same(guide, InternVideo2Guide(model, (1, 2), num_frames=2, dtype=torch.float32))


def test_half_weights_come_straight_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No float32 parameter of a matrix has memory at any time."""
    torch.save(make_student().state_dict(), tmp_path / "teacher.pth")
    taken: list[torch.dtype] = []
    empty = nn.Module.to_empty

    def watched(module: nn.Module, **options: Any) -> nn.Module:
        taken.extend(p.dtype for p in module.parameters() if p.ndim == 2)
        assert all(p.is_meta for p in module.parameters())
        return empty(module, **options)

    monkeypatch.setattr(nn.Module, "to_empty", watched)
    guide = read_guide(tmp_path / "teacher.pth", layers=(2,), **CLIP)
    assert taken and set(taken) == {torch.bfloat16}
    assert guide.observe(make_clip()).layers[0].dtype == torch.bfloat16


TINY = get_config("small", encoder_depth=2, decoder_depth=1, patch_size=8, image_size=(16, 24), num_frames=4)


def make_videomae() -> VideoMAEForPretraining:
    return randomise(VideoMAEForPretraining(TINY)).float()


@pytest.mark.parametrize("layout", ["published", "transformers", "run"])
def test_videomae_of_every_layout(layout: str, tmp_path: Path) -> None:
    model = make_videomae()
    path = tmp_path / "teacher.pth"
    if layout == "published":
        save_published(model, path)
    else:
        safetensors = pytest.importorskip("safetensors.torch")
        path = tmp_path / "folder"
        path.mkdir()
        state = model.state_dict() if layout == "run" else to_huggingface(model.state_dict(), "qv")
        safetensors.save_file({name: t.contiguous() for name, t in state.items()}, path / "model.safetensors")
        kind = '"model_type": "videomae", ' if layout == "transformers" else ""
        (path / "config.json").write_text(f'{{{kind}"num_frames": 4, "image_size": [16, 24]}}')
    teacher = read_video_teacher(path, tubelets=2, image_size=(16, 24), layers=2, dtype=torch.float32)
    visible = torch.tensor([[0, 7, 11]])
    clip = torch.randint(0, 256, (1, 3, 4, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    rows = teacher.rows(clip, visible)
    assert teacher.layers == (0, 1) and teacher.grid == (2, 2, 3)
    model.encoder.position.copy_(teacher.model.position)  # without config.json they are those of 16x224x224
    expected = model.encoder.tokens(clip)[:, visible[0]]
    torch.testing.assert_close(rows.layers[1], expected.detach(), rtol=1e-4, atol=1e-4)


def write_vit(folder: Path, *, pooler: bool = True, processor: bool = True, **sizes: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48) | sizes
    model = transformers.ViTModel(
        transformers.ViTConfig(image_size=28, patch_size=14, **sizes), add_pooling_layer=pooler
    ).eval()
    model.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(
            '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}'
        )
    return model


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    model = write_vit(tmp_path)
    options = dict(num_frames=2, image_size=(28, 42), dtype=torch.float32)
    guide = read_guide(tmp_path, layers=2, **options)
    assert isinstance(guide, HuggingFaceGuide) and guide.layers == (1, 2) and guide.pooled_dim == 32
    expected = HuggingFaceGuide(model, (1, 2), pixel_stats=((0.5,) * 3, (0.2,) * 3), **options)
    first, second = guide.observe(make_clip()), expected.observe(make_clip())
    assert torch.equal(first.attention, second.attention) and torch.equal(first.layers[1], second.layers[1])


@pytest.mark.parametrize("saved", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_folder_of_transformers_in_half_precision(
    saved: torch.dtype, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the teacher of the same weights in float32, and is cast before it moves to its device."""
    model = write_vit(tmp_path).to(saved)
    model.save_pretrained(tmp_path)
    moved, to = [], type(model).to

    def moving(self: nn.Module, device: Any) -> nn.Module:
        moved.append({parameter.dtype for parameter in self.parameters() if parameter.ndim == 2})
        return to(self, device)

    options = dict(num_frames=2, image_size=(28, 42), dtype=dtype)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "to", moving)
        guide = read_guide(tmp_path, layers=2, **options)
    assert moved[-1] == {dtype}
    expected = HuggingFaceGuide(model.float(), (1, 2), pixel_stats=((0.5,) * 3, (0.2,) * 3), **options)
    first, second = guide.observe(make_clip()), expected.observe(make_clip())
    assert torch.equal(first.attention, second.attention) and torch.equal(first.pooled, second.pooled)
    assert all(torch.equal(a, b) for a, b in zip(first.layers, second.layers, strict=True))
    vectors = {parameter.dtype for parameter in guide.model.parameters() if parameter.ndim == 1}
    assert vectors == {torch.float32}


def test_a_pooler_that_the_weights_do_not_have_is_not_handed_over(tmp_path: Path) -> None:
    write_vit(tmp_path, pooler=False)
    assert read_guide(tmp_path, layers=1, **CLIP).pooled_dim is None


def test_the_vision_tower_of_clip(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    vision, text = dict(image_size=28, patch_size=14, **sizes), dict(vocab_size=9, **sizes)
    transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text)).save_pretrained(tmp_path)
    guide = read_guide(tmp_path, layers=1, pixel_stats=((0.5,) * 3, (0.2,) * 3), **CLIP)
    assert isinstance(guide, HuggingFaceGuide) and guide.grid == (2, 2, 3) and guide.layers == (1,)


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_guide(tmp_path / "missing.pth", **CLIP)
    save_published(make_videomae(), tmp_path / "mae.pth")
    with pytest.raises(CheckpointError, match=r"mae.pth' holds no teacher that guides masks.*InternVL-C"):
        read_guide(tmp_path / "mae.pth", **CLIP)
    state = make_student().state_dict()
    torch.save(state, tmp_path / "iv2.pth")
    with pytest.raises(CheckpointError, match=r"iv2.pth' holds no pre-training weights of VideoMAE.*run of pretrain"):
        read_video_teacher(tmp_path / "iv2.pth", tubelets=2, image_size=(28, 42))
    with pytest.raises(ValueError, match=r"4 layers at intervals of 1.0 do not fit a teacher of 3 blocks"):
        read_guide(tmp_path / "iv2.pth", layers=4, **CLIP)
    pool = [name for name in state if name.startswith("clip_projector.")]
    torch.save({name: t for name, t in state.items() if name not in pool}, tmp_path / "poolless.pth")
    with pytest.raises(CheckpointError, match="holds no teacher that guides masks"):
        read_guide(tmp_path / "poolless.pth", **CLIP)
    broken = {name: t for name, t in state.items() if name != "blocks.1.mlp.fc1.bias"} | {
        "blocks.1.odd": state["cls_token"]
    }
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"missing: blocks.1.mlp.fc1.bias; unexpected: blocks.1.odd"):
        read_guide(tmp_path / "broken.pth", layers=1, **CLIP)
    torch.save(state | {"pos_embed": torch.zeros(1, 400, 384)}, tmp_path / "rows.pth")
    with pytest.raises(CheckpointError, match=r"rows.pth': the position table has 399 rows"):
        read_guide(tmp_path / "rows.pth", layers=1, **CLIP)


def test_folders_of_transformers_that_are_refused(tmp_path: Path) -> None:
    write_vit(tmp_path, processor=False)
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config.json with image_mean and image_std"):
        read_guide(tmp_path, layers=1, **CLIP)
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    own = '{"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}'
    for config in ('{"model_type": "no_such_model"}', own):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(CheckpointError, match=r"is no model that transformers reads: \S"):
            read_guide(tmp_path, layers=1, **CLIP)
    assert not (tmp_path / "ran").exists()


def test_a_model_of_transformers_without_blocks_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(hidden_sizes=[8], depths=[1], embedding_size=8)
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="ResNetModel is no vision transformer"):
        read_guide(tmp_path, layers=1, **CLIP)


def test_sizes_of_a_videomae_teacher_are_checked(tmp_path: Path) -> None:
    save_published(make_videomae(), tmp_path / "mae.pth")
    with pytest.raises(ValueError, match="multiples of"):
        read_video_teacher(tmp_path / "mae.pth", tubelets=2, image_size=(16, 23))
