"""Alignments that cannot work end with a sentence about what is wrong, before they train or at the step that fails."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import aligned
from videomae_fast.engine import NonFiniteLossError
from videomae_fast.interop.checkpoint import read_weights, write_safetensors
from videomae_fast.models import INTERNVIDEO2_CONFIGS, get_internvideo2_config
from videomae_fast.recipes.align import AlignConfig, Alignment, align


@pytest.fixture
def video(aligners: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(aligners["video"], tmp_path / "video"))


@pytest.fixture
def image(aligners: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(aligners["image"], tmp_path))


@pytest.fixture
def distil(aligners: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(aligners["distil"], tmp_path))


def spoil(weights: Path, **tensors: float | None) -> Path:
    """Weights with some tensors filled with a value, or left out (None)."""
    state = read_weights(weights)
    for name, value in tensors.items():
        name = name.replace("__", ".")
        assert name in state or value is not None
        state[name] = torch.full_like(state.get(name, torch.zeros(1)), value or 0)
        if value is None:
            del state[name]
    write_safetensors(state, weights)
    return weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks_per_clip": 0}, "masks_per_clip must be at least 1, got 0"),
        ({"mask_ratio": 1.0}, r"mask_ratio must be in \[0, 1\), got 1.0"),
        (
            {"model": "internvideo2-2b"},
            "model must be one of internvideo2-nano, .*internvideo2-6b.*got 'internvideo2-2b'",
        ),
        ({"distil_teacher": "a", "image_teacher": "b"}, "'a' is the only teacher of a distillation: leave out image_t"),
        ({"distil_teacher": "a", "video_teacher": "b"}, "'a' is the only teacher of a distillation: leave out video_t"),
        ({"distil_interval": 0.5}, r"distil_interval must be at least 1, got 0\.5"),
        ({"video_weight": -1}, r"video_weight must not be negative, got -1\.0"),
        ({"eval_every": 5}, "eval_every 5 needs eval_data"),
        ({"warmup_epochs": 301}, "warmup_epochs 301 must be less than epochs 301"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlignConfig.from_options(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 8}, r"teacher .*video has a grid of 4x2x2 tokens, the student of 4x4x4"),
        ({"patch_size": 14}, r"image_size \(32, 32\) must be multiples of tubelet_size 1 and patch_size 14"),
        ({"video_layers": 3}, "video_layers must be at most 2, got 3: the student has 2 blocks, the teacher 3"),
        ({"data": ""}, "data is empty"),
        ({"video_teacher": ""}, "there is no teacher: name one with image_teacher, video_teacher or distil_teacher"),
    ],
    ids=str,
)
def test_teachers_that_do_not_fit(
    options: dict[str, Any], message: str, video: Path, videos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        align(aligned.settings(videos, tmp_path / "run", **({"video_teacher": str(video)} | options)))


def test_teachers_of_another_kind(video: Path, image: Path, distil: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    for option, path, message in (
        ("image_teacher", video, r"video' holds no teacher that guides masks.*Known teachers are"),
        ("distil_teacher", video, r"video' holds no teacher that guides masks"),
        ("video_teacher", image, r"image.safetensors' holds no pre-training weights of VideoMAE"),
        ("image_teacher", distil, r"image_teacher .*distil.safetensors sees whole clips: name it with distil_teacher"),
        ("distil_teacher", image, r"distil_teacher .*image.safetensors sees each frame alone: name it with image_t"),
        ("video_teacher", tmp_path / "text.pth", r"text.pth"),
    ):
        with pytest.raises(ValueError, match=message):
            align(aligned.settings(videos, tmp_path / "run", **{option: str(path)}))
    with pytest.raises(FileNotFoundError, match="gone"):
        align(aligned.settings(videos, tmp_path / "run", image_teacher=str(tmp_path / "gone")))
    options: dict[str, Any] = {"distil_teacher": str(distil), "model": "internvideo2-small", "image_layers": 3}
    message = r"image_layers must be at most 2, got 3: .* 12 blocks, the teacher 4 of which one teaches in 3.34"
    with pytest.raises(ValueError, match=message):
        align(aligned.settings(videos, tmp_path / "run", **options))


def test_weights_of_a_teacher_that_are_missing_or_extra_are_listed(image: Path, videos: Path, tmp_path: Path) -> None:
    spoil(image, blocks__1__mlp__fc1__bias=None, blocks__0__odd=1.0)
    with pytest.raises(ValueError, match=r"missing: blocks.1.mlp.fc1.bias; unexpected: blocks.0.odd"):
        align(aligned.settings(videos, tmp_path / "run", image_teacher=str(image)))


def test_attention_that_leaves_too_few_tokens(
    image: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a model whose softmax is one token's."""
    from videomae_fast.models import guides

    observe = guides.InternVideo2Guide.observe

    def peaked(self: guides.InternVideo2Guide, *arguments: Any) -> Any:
        observation = observe(self, *arguments)
        observation.attention[..., 1:] = 0
        return observation

    monkeypatch.setattr(guides.InternVideo2Guide, "observe", peaked)
    config = aligned.settings(videos, tmp_path / "run", image_teacher=str(image), mask_ratio=0.25)
    with pytest.raises(
        ValueError, match=r"the attention of teacher .*image.safetensors guides no masks: keep is larger"
    ):
        align(config)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_is_not_finite_is_named(value: float, video: Path, videos: Path, tmp_path: Path) -> None:
    """With its layer, and the step, although the loss is read at log lines only."""
    spoil(video / "model.safetensors", encoder__blocks__2__mlp__fc2__bias=value)
    config = aligned.settings(
        videos, tmp_path / "run", video_teacher=str(video), log_every=3, accumulate=2, batch_size=2
    )
    with pytest.raises(
        NonFiniteLossError, match=r"the loss of step 1 is nan.*Of its clips, teacher .*video computed"
    ) as e:
        align(config)
    assert str(e.value).endswith("computed NaN or infinity in layer 2.")


@pytest.mark.parametrize(
    "name, layers", [("blocks__1__mlp__fc2__bias", "layer 1, layer 2"), ("clip_projector__norm1_k__bias", "")]
)
def test_a_guide_that_is_not_finite_is_named(name: str, layers: str, image: Path, videos: Path, tmp_path: Path) -> None:
    """On a CPU no mask can be drawn by its attention."""
    spoil(image, **{name: float("nan")})
    config = aligned.settings(videos, tmp_path / "run", image_teacher=str(image), image_layers=2)
    with pytest.raises(
        NonFiniteLossError,
        match=r"^step 1 cannot be computed.*is none\. The cause: teacher .*image.safetensors computed",
    ) as e:
        align(config)
    assert str(e.value).endswith(f"infinity in {layers + ', ' if layers else ''}the pooled row, the attention.")


def test_without_a_culprit_the_advice_is_about_the_student(video: Path, videos: Path, tmp_path: Path) -> None:
    config = aligned.settings(videos, tmp_path / "run", video_teacher=str(video), lr=1e30, clip_grad=0.0, log_every=3)
    with pytest.raises(NonFiniteLossError, match="A lower lr, clip_grad or precision fp32 may help"):
        align(config)


def test_a_run_continues_with_its_teachers_only(video: Path, videos: Path, tmp_path: Path) -> None:
    config = aligned.settings(videos, tmp_path / "run", video_teacher=str(video), max_steps=1)
    align(config)
    moved = video.rename(tmp_path / "moved")
    align(config.with_options(video_teacher=str(moved), resume=True, max_steps=2))
    spoil(moved / "model.safetensors", encoder__blocks__0__mlp__fc2__bias=0.25)
    with pytest.raises(ValueError, match=r"a run continues with the videos and the order it began with.*'teachers'"):
        align(config.with_options(video_teacher=str(moved), resume=True, max_steps=3))
    with pytest.raises(ValueError, match=r"mask_ratio: was 0\.5, now 0\.25"):
        align(config.with_options(video_teacher=str(moved), resume=True, mask_ratio=0.25))


def test_a_run_continues_with_the_heads_and_eps_of_its_teachers_only(
    video: Path, image: Path, videos: Path, tmp_path: Path
) -> None:
    """The weights are the same, and the rows are others."""
    recipe = Alignment(aligned.settings(videos, tmp_path / "run", video_teacher=str(video), image_teacher=str(image)))
    recipe.build(torch.device("cpu"), print)
    teachers = recipe.teachers
    found = [teachers.digest(), teachers.digest()]
    assert teachers.guide is not None and teachers.video is not None
    for teacher, changes in (
        (teachers.guide, {"encoder_heads": 8}),
        (teachers.guide, {"norm_eps": 1e-5}),
        (teachers.video, {"norm_eps": 1e-5}),
    ):
        teacher.model.config = replace(teacher.model.config, **changes)
        found.append(teachers.digest())
    assert len(set(found)) == 4


@pytest.mark.slow
def test_a_run_continues_with_the_config_of_transformers_only(videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = aligned.make_huggingface_teacher(tmp_path / "vit")
    config = aligned.settings(videos, tmp_path / "run", image_teacher=str(folder), max_steps=1)
    align(config)
    moved = folder.rename(tmp_path / "moved")
    align(config.with_options(image_teacher=str(moved), resume=True, max_steps=2))
    given = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(given | {"num_attention_heads": 2}))
    with pytest.raises(ValueError, match=r"a run continues with the videos and the order it began with.*'teachers'"):
        align(config.with_options(image_teacher=str(moved), resume=True, max_steps=3))


def test_weights_that_cannot_begin_a_run(
    video: Path, distil: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their position table is of no clip that could be meant, or they are of another model."""
    write_safetensors(read_weights(distil) | {"pos_embed": torch.zeros(1, 400, 384)}, distil)
    monkeypatch.setitem(INTERNVIDEO2_CONFIGS, "tiny", get_internvideo2_config("small", encoder_depth=1))
    options = {"video_teacher": str(video)}
    with pytest.raises(ValueError, match="the position table has 399 rows besides that of the cls token"):
        align(aligned.settings(videos, tmp_path / "run", init=str(distil), **options))
    with pytest.raises(ValueError, match="holds no InternVideo2"):
        align(aligned.settings(videos, tmp_path / "run", init=str(video), **options))
