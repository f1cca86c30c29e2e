from pathlib import Path

import pytest

from videomae_fast.data import (
    BadVideo,
    BadVideoLog,
    UnreadableVideosError,
)


def test_bad_video_log(tmp_path: Path) -> None:
    path = tmp_path / "run" / "bad_videos.tsv"
    first, second = BadVideo("b.mp4", "gone"), BadVideo("a b.mp4", "empty")
    log = BadVideoLog(path)
    assert log.add([]) == [] and not path.exists()
    assert log.add([first, second, first]) == [first, second]
    assert log.add([first]) == []
    assert (len(log), log.replaced) == (2, 4)
    assert path.read_text() == "a b.mp4\tempty\t1\nb.mp4\tgone\t3\n"
    resumed = BadVideoLog(path)
    assert resumed.add([first]) == [] and resumed.counts == {first: 4, second: 1}
    assert [file.name for file in path.parent.iterdir()] == ["bad_videos.tsv"]


def test_share_of_bad_videos(tmp_path: Path) -> None:
    log = BadVideoLog(tmp_path / "bad.tsv")
    log.add([BadVideo(f"{i}.mp4", "gone") for i in range(20)] * 3)  # a video counts once
    log.check_share(0.1, seen=5, num_videos=10**6)  # 20 of the first 200
    log.check_share(0.02, seen=1000, num_videos=10**6)
    log.check_share(0.5, seen=10**6, num_videos=40)
    for share, seen, videos in ((0.099, 5, 10**6), (0.019, 1000, 10**6), (0.49, 10**6, 40), (0.0, 0, 10**6)):
        with pytest.raises(UnreadableVideosError, match=rf"20 of about \d+ videos .* {share:g} .*bad.tsv"):
            log.check_share(share, seen, videos)
    BadVideoLog().check_share(0.0, 0, 1)


def test_hostile_names_come_back_from_the_report(tmp_path: Path) -> None:
    names = ["a\nb.mp4", "a\rb.mp4", "a\x0b\x1c\x85\u2028b.mp4", "tab\tb.mp4", "\udcff.mp4", "=1+1.mp4", "back\\n.mp4"]
    log = BadVideoLog(tmp_path / "bad_videos.tsv")
    log.add([BadVideo(name, "has no frames") for name in names])
    again = BadVideoLog(tmp_path / "bad_videos.tsv")
    assert again.counts == log.counts and len(again) == len(names)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"a.mp4\tbroken\tmany\n", ":1: expected path, reason and count"),
        (b"a.mp4\tbroken\t1\nb.mp4\tbroken\n", r":2: .* got '\['b.mp4', 'broken'\]': mend it, or remove"),
        (b"a.mp4\tbroken\t1\n\n", ":2: expected"),
        (b"a.mp4\tbroken\t-1\n", ":1: expected"),
        (b"a.mp4\tbroken\t" + b"9" * 5000, ":1: expected"),
        (b"a.mp4\tbroken\t1\tb.mp4\tbroken\t1\n", ":1: expected"),
        (b"a.mp4\t\xff\t1\n", " is damaged, it is no UTF-8"),
        (b"\x1f\x8b\0\0", " is damaged, it is no UTF-8"),
        (b"a.mp4\t\0\n", r":1: expected .* got '\['a.mp4', '\\x00'\]'"),
    ],
)
def test_a_damaged_report_is_named_with_its_line(text: bytes, line: str, tmp_path: Path) -> None:
    (tmp_path / "bad_videos.tsv").write_bytes(text)
    with pytest.raises(ValueError, match=rf"bad_videos\.tsv{line}"):
        BadVideoLog(tmp_path / "bad_videos.tsv")


def test_an_empty_report_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad_videos.tsv").touch()
    assert BadVideoLog(tmp_path / "bad_videos.tsv").counts == {}
