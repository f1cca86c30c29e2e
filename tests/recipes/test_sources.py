"""One root and one list format for all lists of a command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.recipes import tiny
from videomae_fast.interop import save_published
from videomae_fast.models import VideoMAEForClassification
from videomae_fast.models.config import CONFIGS
from videomae_fast.recipes.evaluate_probe import evaluate_probe
from videomae_fast.recipes.labelled_options import LabelledData
from videomae_fast.recipes.pretrain import PretrainData
from videomae_fast.recipes.sources import read_source

# The videos that each option's list is read for.
READS: dict[str, Callable[[dict[str, str]], Any]] = {
    "data of pretrain": lambda given: PretrainData(**given).dataset(0).annotations,
    "eval_data of pretrain": lambda given: PretrainData(**given).eval_dataset(0).annotations,
    "eval_data of knn": lambda given: PretrainData(**given, knn_data=given["data"]).knn_monitor(1).test.annotations,
    "knn_data": lambda given: PretrainData(**given, knn_data=given["data"]).knn_monitor(1).train.annotations,
    "data of finetune": lambda given: LabelledData(**given).labelled_videos(),
    "eval_data of finetune": lambda given: LabelledData(**given).evaluation_views(tiny.CLASSES).annotations,
}


@pytest.fixture
def lists(labelled: Path, tmp_path: Path) -> dict[str, str]:
    """Two lists in a folder of their own."""
    names = sorted(path.relative_to(labelled) for path in labelled.rglob("*.mp4"))
    for name in ("data", "eval_data"):
        (tmp_path / name).write_text("".join(f"{path},{path.parent}\n" for path in names))
    return {"data": str(tmp_path / "data"), "eval_data": str(tmp_path / "eval_data"), "root": str(labelled)}


@pytest.mark.parametrize("case", READS)
def test_every_list_has_the_root_and_the_format(case: str, lists: dict[str, str], labelled: Path) -> None:
    found = READS[case](lists | {"list_format": "csv"})
    assert sorted(entry.name for entry in found) == sorted(map(str, labelled.rglob("*.mp4")))
    with pytest.raises(FileNotFoundError, match="none of the first 8 entries"):
        READS[case](lists | {"root": ""})
    with pytest.raises(ValueError, match="data:1: expected 'path label'"):
        READS[case](lists | {"list_format": "v1"})


def test_both_lists_of_a_probe(lists: dict[str, str], tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    save_published(VideoMAEForClassification(CONFIGS["tiny"], 4), weights / "checkpoint.pth")
    views = {"num_frames": 8, "image_size": 32, "segments": 1, "crops": 1}
    options = views | {"probe": "knn", "train_data": lists["data"], "root": lists["root"]}
    config = tiny.evaluation(Path(lists["eval_data"]), weights / "checkpoint.pth", **options)
    assert evaluate_probe(config).evaluation.summary()["videos"] == 12
    with pytest.raises(FileNotFoundError, match="none of the first 8 entries"):
        evaluate_probe(config.with_options(root=""))


def test_a_folder_beside_a_list_has_no_root(lists: dict[str, str], labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "mixture.json").write_text(json.dumps([{"data": str(labelled)}]))
    listed, root = lists["data"], lists["root"]
    for other in (str(labelled), str(tmp_path / "mixture.json")):
        assert len(read_source(other, (listed, other), root, "csv")) == 12
        assert len(read_source(listed, (listed, other, ""), root, "csv", labelled=True)) == 12
        with pytest.raises(ValueError, match="root"):
            read_source(other, (other, ""), root, "auto")
        with pytest.raises(ValueError, match="format"):
            read_source(other, (other, other), "", "csv")
    with pytest.raises(FileNotFoundError, match="gone"):
        read_source(str(tmp_path / "gone"), (listed, str(tmp_path / "gone")), root, "auto")
