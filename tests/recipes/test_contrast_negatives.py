"""Steps that happen to have no negatives are trained on and counted; runs that can have none are refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.recipes import paired, tiny
from tests.recipes.test_contrast_fusion import STAGE2
from tests.recipes.test_contrastive import prepared
from videomae_fast.recipes.contrast import contrast
from videomae_fast.recipes.contrast_negatives import NegativeCounts, check_sizes

pytest.importorskip("transformers")


@pytest.fixture
def unlucky(pairs: Path) -> Path:
    """Eight videos; all but the last are of one caption, so that one of two batches of four has no negative."""
    lines = [{"path": f"video{number}.mp4", "caption": "rows move"} for number in range(7)]
    data = pairs.parent / "unlucky.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in (*lines, {"path": "video7.mp4", "caption": "columns"})))
    return data


@pytest.mark.parametrize("changes", [{}, {"loss": "siglip", "micro_batch": 2}, STAGE2 | {"micro_batch": 2}], ids=str)
def test_a_run_goes_on(
    changes: dict[str, Any], unlucky: Path, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contrast(paired.settings(unlucky, text_model, tmp_path, max_steps=2, **changes))
    assert torch.tensor(tiny.losses(tmp_path)).isfinite().all()
    out = capsys.readouterr().out
    assert "1 of 2 steps compared pairs of one video or one caption only" in out
    assert ("3 of 4 micro-batches had no hard negative: their loss of matching was 0" in out) == (
        "fusion_layers" in changes
    )


def test_a_run_with_negatives_says_nothing(
    pairs: Path, text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contrast(paired.settings(pairs, text_model, tmp_path, max_steps=2, **STAGE2))
    out = capsys.readouterr().out
    assert "compared pairs" not in out and "hard negative" not in out


def test_matching_without_a_negative_is_0_with_gradients(unlucky: Path, text_model: Path, tmp_path: Path) -> None:
    """Gradients of 0 rather than none, for which the other ranks of DDP would wait."""
    recipe, model, batches = prepared(paired.settings(unlucky, text_model, tmp_path, **STAGE2))
    for batch in batches:
        (part,) = recipe.parts(batch, 1, torch.device("cpu"))
        alike = len(batch.caption_id.unique()) == 1
        assert (part.pair_ids is None) == alike
        model.zero_grad()
        loss, numbers = recipe.step(model, part, 0)
        loss.backward()
        assert loss.isfinite() and (float(numbers["matching"].detach()) == 0) == alike
        grad = model.itm_head.weight.grad
        assert grad is not None and bool(grad.any()) != alike


@pytest.mark.parametrize(("others", "alike"), [((5, 5), 1), ((5, 6), 0)])
def test_pairs_of_other_ranks_count(others: tuple[int, int], alike: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = NegativeCounts()
    monkeypatch.setattr(
        "videomae_fast.recipes.contrast_negatives.gather_rows",
        lambda ids, group: torch.cat([ids, torch.tensor([[8, other] for other in others])]),
    )
    part = SimpleNamespace(video_id=torch.tensor([1, 2]), caption_id=torch.tensor([5, 5]))
    counts.add([part], "group", fuses=False)  # type: ignore[list-item]
    assert counts.report() == [f"{alike} of 1 steps compared pairs of one video or one caption only"][:alike]


@pytest.mark.parametrize(
    ("changes", "ranks", "message"),
    [
        ({"batch_size": 1}, 1, "batch_size must be at least 2 on one device"),
        ({"batch_size": 1} | STAGE2, 2, "batch_size must be at least 2 with fusion_layers 1, .* got 1"),
        ({"micro_batch": 1, "negatives": "global"} | STAGE2, 1, "micro_batch must be at least 2 with fusion_layers 1"),
        ({"batch_size": 1}, 2, ""),
        ({"micro_batch": 1, "negatives": "global"} | STAGE2, 2, ""),
    ],
    ids=str,
)
def test_sizes(changes: dict[str, Any], ranks: int, message: str) -> None:
    config = paired.settings(Path("-"), Path("-"), Path("-"), **changes)
    if not message:
        check_sizes(config, ranks)
        return
    with pytest.raises(ValueError, match=message):
        check_sizes(config, ranks)
