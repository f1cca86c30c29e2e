"""The unmasked phase with a frozen video tower, whose features are kept: exact, and no video is decoded twice."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import paired, tiny
from tests.recipes.test_contrast_text import built
from videomae_fast.engine.log import read_log
from videomae_fast.recipes.contrast import ContrastConfig, contrast
from videomae_kernels import cat_clips

pytest.importorskip("transformers")
FROZEN: dict[str, Any] = {
    **{"model": "internvideo2-tiny", "patch_size": 16, "train": "none", "mask_ratio": 0.0, "image_mask_ratio": 0.0},
}
FUSED = FROZEN | {"fusion_layers": 1, "text_pool": "first", "temperature": "internvideo2"}
KINDS = {"contrast": FROZEN, "fusion": FUSED, "mean": {**FROZEN, "model": "tiny", "patch_size": 0}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_that_of_the_clips(kind: str, pairs: Path, text_model: Path, tmp_path: Path) -> None:
    """Losses of kept features are those of the tower, on the clips that the features are of."""
    options = KINDS[kind] | {"video_features": str(tmp_path / "kept")}
    recipe, model, said = built(pairs, text_model, tmp_path, **options)
    assert [line.partition(":")[0] for line in said[-2:]] == [
        "computing the features of 8 videos",
        "computing the features of 8 images",
    ]
    datasets = recipe.config.data.datasets(recipe.config.data.pairs(str(pairs)), recipe.config.run.seed)
    for batch in recipe.batches(0, 1, 0, 2):
        assert batch.clips.shape[-2:] == (1, 1)
        dataset = datasets[batch.is_image]
        entries = {int(dataset[index, index].video_id): index for index in range(8)}
        live = [dataset[entries[int(number)], entries[int(number)]].clips for number in batch.video_id]
        (part,) = recipe.parts(batch, 1, torch.device("cpu"))
        rows = [model.encode_video(clip) for clip in live]
        torch.testing.assert_close(part.video.pooled, torch.cat([row.pooled for row in rows]), rtol=0, atol=1e-5)
        if kind == "fusion":
            torch.testing.assert_close(part.video.tokens, torch.cat([row.tokens for row in rows]), rtol=0, atol=1e-5)
        loss, numbers = recipe.step(model, part, 0)
        again, _ = recipe.step(model, part._replace(clips=cat_clips(live), video=None), 0)
        torch.testing.assert_close(loss, again, rtol=1e-5, atol=0)
        assert numbers["scale"].isfinite()


def test_a_run_reads_them(pairs: Path, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run computes nothing, decodes nothing, and is the same; an interrupted one continues."""
    kept = FUSED | {"video_features": str(tmp_path / "kept"), "epochs": 2}
    contrast(paired.settings(pairs, text_model, tmp_path / "one", **kept))
    assert "computing the features of 8 videos" in capsys.readouterr().out
    moved = [path.rename(path.with_suffix(".away")) for path in pairs.parent.glob("*.mp4") if path.stem != "video0"]
    try:
        contrast(paired.settings(pairs, text_model, tmp_path / "two", max_steps=3, **kept))
        contrast(paired.settings(pairs, text_model, tmp_path / "two", resume=True, **kept))
    finally:
        for path in moved:
            path.rename(path.with_suffix(".mp4"))
    assert "computing" not in capsys.readouterr().out
    assert tiny.losses(tmp_path / "one") == tiny.losses(tmp_path / "two")
    assert {"contrast", "matching", "words"} <= read_log(tmp_path / "one")[0].keys()


def test_clips_of_short_videos_are_counted(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    options = FROZEN | {"sampling": "fps", "video_features": str(tmp_path / "kept")}
    _, _, said = built(pairs, text_model, tmp_path, **options)  # of videos of half a second, and of images
    assert said[-3:-1] == [
        f"computing the features of 8 videos: {tmp_path / 'kept' / 'videos'}",
        "8 of 8 clips repeat a frame: their videos are too short",
    ]


def test_an_unreadable_video_is_replaced(pairs: Path, text_model: Path, tmp_path: Path) -> None:
    lines = pairs.read_text().splitlines()
    (pairs.parent / "garbage.mp4").write_bytes(b"no video")
    data = pairs.parent / "with_garbage.jsonl"
    data.write_text("\n".join([*lines, '{"path": "garbage.mp4", "caption": "red rows"}']) + "\n")
    kept = FROZEN | {"video_features": str(tmp_path / "kept"), "epochs": 4}
    contrast(paired.settings(data, text_model, tmp_path / "run", **kept))
    assert "garbage.mp4" in (tmp_path / "run" / "bad_videos.tsv").read_text()
    with pytest.raises(ValueError, match="11% of the videos cannot be read, more than max_bad_share 10%"):
        contrast(paired.settings(data, text_model, tmp_path / "other", **kept, max_bad_share=0.1))


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"seed": 4}, "weights"), ({"image_size": 48}, "weights"), ({"sampling": "strided"}, "clips"), (FUSED, "fused")],
)
def test_those_of_others_are_refused(
    changes: dict[str, Any], name: str, pairs: Path, text_model: Path, tmp_path: Path
) -> None:
    kept = FROZEN | {"video_features": str(tmp_path / "kept")}
    built(pairs, text_model, tmp_path, **kept)
    with pytest.raises(ValueError, match=rf"video features in .* are of another run: .*{name}: was .*, now"):
        built(pairs, text_model, tmp_path, **kept | changes)


@pytest.mark.parametrize("changes", [{"train": "head"}, {"mask_ratio": 0.5}, {"image_mask_ratio": 0.5}])
def test_what_changes_cannot_be_kept(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="video_features 'kept' needs train none, mask_ratio 0 and image_mask_ratio 0"):
        ContrastConfig.from_options(**FROZEN | {"video_features": "kept"} | changes)
