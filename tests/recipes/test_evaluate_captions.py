"""Captions by a run of `caption`, against those of `describe` and of people."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.recipes import tiny
from videomae_fast.cli import main
from videomae_fast.models.config import CONFIGS
from videomae_fast.recipes.caption import caption
from videomae_fast.recipes.describe import Describer, Description, describe
from videomae_fast.recipes.evaluate import EvaluateConfig
from videomae_fast.recipes.evaluate_captions import evaluate_captions
from videomae_fast.recipes.text_scores import caption_scores

pytest.importorskip("transformers")
pytest.importorskip("torchmetrics")
from tests.recipes import captioning


@pytest.fixture(scope="module")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of masks that learned a little; its language model is beside it."""
    folder = tmp_path_factory.mktemp("captioner")
    language = captioning.write_language_model(folder / "language")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", tiny.TINY)
        caption(captioning.settings(pairs, language, folder / "run", max_steps=2, mask_ratio=0.25, train="all"))
    return folder / "run"


def evaluation(data: Path, run: Path, /, **changes: Any) -> EvaluateConfig:
    given = {"task": "caption", "data": str(data), "init": str(run), "workers": 0, "precision": "fp32"}
    return EvaluateConfig.from_options(**(given | {"batch_size": 3, "max_new_tokens": 4} | changes))


def test_captions_are_those_of_describe_and_are_scored(pairs: Path, run: Path, tmp_path: Path) -> None:
    """Of videos and images in turn, with one or two captions each, and one video that cannot be read."""
    data = Path(shutil.copytree(pairs.parent, tmp_path / "data")) / pairs.name
    (data.parent / "video3.mp4").write_bytes(b"no video")
    result = evaluate_captions(evaluation(data, run))
    assert [Path(each.path).name for each in result.missing] == ["video3.mp4"]
    listed = [json.loads(line) for line in pairs.read_text().splitlines()]
    names = [entry["path"] for entry in listed if entry["path"] != "video3.mp4"]
    assert [Path(entry.name).name for entry in result.videos] == names
    videos = [entry.name for entry in result.videos if not entry.is_image]
    told = {each.path: each.text for each in describe(Describer(str(run)), videos, max_new_tokens=4)
            if isinstance(each, Description)}  # fmt: skip
    assert len(told) == 7
    for entry, text in zip(result.videos, result.texts, strict=True):
        assert entry.is_image or text == told[entry.name]
    references = [([c] if isinstance(c, str) else c) for c in (e["caption"] for e in listed if e["path"] in names)]
    assert result.figures() == caption_scores(references, result.texts) | {"videos": 15, "missing": 1}
    assert result.lines()[0].startswith("BLEU-1 ") and "video3.mp4" in result.lines()[2]


def test_perfect_captions_score_highest(pairs: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures belong to their videos: captions of others score less."""
    listed = [json.loads(line)["caption"] for line in pairs.read_text().splitlines()]
    truth = [c if isinstance(c, str) else c[0] for c in listed]
    order = [*truth[0::2], *truth[1::2]]  # videos first, then images, as they are read
    for told, expected in ((order, 1.0), (order[1:] + order[:1], 0.0)):
        said = iter(told)

        def answers(
            self: Describer, clips: Any, tokens: Any, *rest: Any, said: Any = said, **options: Any
        ) -> list[str]:
            return [next(said) for _ in tokens.place]

        monkeypatch.setattr(Describer, "answers", answers)
        assert evaluate_captions(evaluation(pairs, run)).figures()["exact_match"] == expected


def test_the_command_writes_figures_and_captions(
    pairs: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.tsv"
    lines = [f"{pairs.parent}/video{n}.mp4\t{start}\t0.3\tred rows\n" for n, start in ((0, ""), (1, 0.1))]
    short.write_text("path\tstart\tend\tcaption\n" + "".join(lines))
    moved = shutil.copytree(run.parent / "language", tmp_path / "moved")
    config = evaluation(short, run, output=str(tmp_path / "out"), language_model=str(moved))
    assert main(tiny.arguments(config, "evaluate")) == 0
    out = capsys.readouterr().out
    assert "CIDEr-D " in out and ", 2 videos" in out and f"what was said about each video: {tmp_path}" in out
    rows = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text("utf-8").splitlines()]
    assert [row["start"] for row in rows] == [0.0, 0.1] and {row["end"] for row in rows} == {0.3}
    assert all(row["references"] == ["red rows"] for row in rows)
    result = evaluate_captions(config)
    assert [row["text"] for row in rows] == list(result.texts)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result.figures()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "data is empty: name a list of videos and images with captions"),
        ({"init": ""}, "init is empty: name a run of caption"),
        ({"init": "/gone"}, "init: /gone does not exist"),
        ({"init": "PAIRS"}, r"init must be a run of caption, which has a connector: there is no captioner\.json"),
        ({"data": "ONE"}, "data must have two videos or more that can be read, got one of 2"),
        ({"data": "SINGLE"}, "data must have two videos or more, got 1: CIDEr-D compares them"),
        ({"data": "NONE"}, "none of the 2 videos can be read"),
        ({"data": "MARKS"}, r"video1\.mp4 has a caption without words"),
        ({"data": "TALKS"}, r"talks\.json has conversations, and captions are needed"),
        ({"max_new_tokens": 1000}, r"max_new_tokens must be at most \d+, which the language model has"),
        ({"segments": 2}, "task caption does not use segments: leave it at 0"),
        ({"num_frames": 4}, "task caption does not use num_frames: leave it at 0"),
        ({"attention": "eager"}, "attention must be one of"),
        ({"elementwise": "torch"}, "task caption does not use elementwise: leave it at 'triton'"),
        ({"probe": "knn", "train_data": "x"}, "task caption does not use probe"),
        ({"templates": "x"}, "task caption does not use templates: leave it at ''"),
        ({"task": "retrieval", "language_model": "x"}, "task retrieval does not use language_model: leave it at ''"),
        ({"task": "classify", "max_new_tokens": 3}, "task classify does not use max_new_tokens: leave it at 64"),
        ({"language_model": "OTHER"}, "is not the one that it was trained with"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str, pairs: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    good = pairs.parent / "video0.mp4"
    lists = {
        "ONE": f"{good}\ta\nbroken.mp4\tb\n",
        "SINGLE": f"{good}\ta\n{good}\tb\n",
        "NONE": "broken.mp4\ta\ngone.mp4\tb\n",
        "MARKS": f"{good}\ta\n{pairs.parent}/video1.mp4\t...\n",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.tsv").write_text(f"path\tcaption\n{text}")
    (tmp_path / "talks.json").write_text('[{"video": "broken.mp4", "QA": [{"q": "a", "a": "b"}]}]')
    paths: dict[str, Path] = {name: tmp_path / f"{name}.tsv" for name in lists}
    paths |= {"PAIRS": pairs.parent, "TALKS": tmp_path / "talks.json", "OTHER": tmp_path / "other"}
    if changes.get("language_model") == "OTHER":
        captioning.write_language_model(tmp_path / "other", initializer_range=0.1)
    given = {name: str(paths[value]) if value in paths else value for name, value in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate_captions(evaluation(pairs, run, **given))
