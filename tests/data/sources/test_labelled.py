"""One numbering of classes over all sources of a mixture."""

import json
from pathlib import Path

import pytest

from videomae_fast.data import (
    Annotations,
    ClipDataset,
    Mixture,
    VideoFile,
    VideoSource,
    number_classes,
    read_classes,
    read_mixture,
)


def mixture_of(*labels: list[int]) -> Mixture:
    return Mixture([VideoSource(Annotations([VideoFile(f"{k}.mp4", k) for k in of])) for of in labels])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`tree`, with a folder for each of the classes b and c; `names.csv`, with the classes a and b; `numbers.csv`."""
    for name in ("tree/b/1.mp4", "tree/c/1.mp4", "1.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "names.csv").write_text("1.mp4,b\n1.mp4,a\n")
    (tmp_path / "numbers.csv").write_text("1.mp4 0\n1.mp4 2\n")
    (tmp_path / "numbers.txt").write_text("c\nd\na\n")
    return tmp_path


def write(path: Path, *sources: dict[str, str]) -> Path:
    path.write_text(json.dumps(sources))
    return path


def test_names_of_all_sources_are_sorted_together(folder: Path) -> None:
    mixture = read_mixture(write(folder / "m.json", {"data": "tree"}, {"data": "names.csv"}), labelled=True)
    assert mixture.class_names == () and mixture.labels.tolist() == [0, 1, 1, 0]  # each source alone
    numbered = number_classes(mixture)
    assert numbered.class_names == ("a", "b", "c") and numbered.labels.tolist() == [1, 2, 1, 0]
    assert [entry.label for entry in numbered] == [1, 2, 1, 0] and numbered.fingerprint() == mixture.fingerprint()


def test_a_class_file_says_what_the_numbers_of_a_source_mean(folder: Path) -> None:
    sources = {"data": "tree"}, {"data": "numbers.csv", "classes": "numbers.txt"}
    mixture = read_mixture(write(folder / "m.json", *sources), labelled=True)
    numbered = number_classes(mixture, allow_empty=True)
    assert numbered.class_names == ("a", "b", "c", "d") and numbered.labels.tolist() == [1, 2, 2, 0]
    with pytest.raises(ValueError, match=r"1 of 4 classes have no video: 'd' \(3\)\. Add videos"):
        number_classes(mixture)
    assert not read_mixture(folder / "m.json").sources[1].annotations.class_names
    (folder / "numbers.txt").write_text("c\nd\n")
    with pytest.raises(
        ValueError, match=r"m.json, source 2: .*1.mp4 has class number 2: expected a number in \[0, 2\)"
    ):
        read_mixture(folder / "m.json", labelled=True)
    with pytest.raises(FileNotFoundError, match=r"m.json, source 1: there is no class file at .*gone"):
        read_mixture(write(folder / "m.json", {"data": "numbers.csv", "classes": "gone"}), labelled=True)


def test_given_names_are_the_order(folder: Path) -> None:
    (folder / "classes.txt").write_text("c\nb\na\n")
    names = read_classes(folder / "classes.txt")
    tree = number_classes(read_mixture(folder / "tree", labelled=True), names, allow_empty=True)
    assert tree.class_names == names and tree.labels.tolist() == [1, 0]
    numbers = number_classes(read_mixture(folder / "numbers.csv", labelled=True), names, allow_empty=True)
    assert numbers.class_names == names and numbers.labels.tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"names.csv|class 'a', which is none of the 2 classes"):
        number_classes(read_mixture(folder / "names.csv", labelled=True), ("c", "b"))


def test_numbers_name_themselves() -> None:
    numbered = number_classes(mixture_of([2, 0], [1, 1]))
    assert numbered.class_names == ("0", "1", "2") and numbered.labels.tolist() == [2, 0, 1, 1]


def test_an_evaluation_has_the_classes_of_the_training(folder: Path) -> None:
    train = number_classes(
        read_mixture(write(folder / "m.json", {"data": "tree"}, {"data": "names.csv"}), labelled=True)
    )
    evaluated = number_classes(read_mixture(folder / "tree", labelled=True), train.class_names, allow_empty=True)
    assert evaluated.labels.tolist() == [1, 2]  # alone, they would be 0 and 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3, 1], r"1 of 4 classes have no video: '2' \(2\)\. Add videos, number the classes without gaps"),
        ([9, 1], r"8 of 10 classes have no video: '0' \(0\), .*'5' \(5\), \.\.\.\. Add"),
        ([0, 0], r"all 2 videos have the class '0': a classifier needs two"),
        ([0, 2**20], r"1048576.mp4 has class number 1048576: expected less than 1048576"),
        ([0, 10**17], r"has class number 1" + "0" * 17),
        ([-1, 1], r"-1.mp4 has no class|has no class"),
    ],
)
def test_class_numbers_that_cannot_be(labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        number_classes(mixture_of(labels))


def test_numbers_beside_names_need_a_class_file(folder: Path) -> None:
    mixture = read_mixture(write(folder / "m.json", {"data": "tree"}, {"data": "numbers.csv"}), labelled=True)
    with pytest.raises(ValueError, match=r"source 2 of the mixture has class numbers where others have names"):
        number_classes(mixture)


def test_labels_reach_the_batches(clips: Path) -> None:
    mixture = number_classes(
        Mixture(
            [
                VideoSource(Annotations([VideoFile(str(clips / name), k)]))
                for k, name in enumerate(("h264.mp4", "mjpeg.avi"))
            ]
        )
    )
    dataset = ClipDataset(mixture, num_frames=2, frame_stride=2, size=(16, 16), crops_per_video=2, seed=0)
    for index in (0, 1):
        label = dataset[index, 0].label
        assert label is not None and label.tolist() == [index] * 2
