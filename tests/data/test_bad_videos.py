from pathlib import Path

import pytest

from videomae_fast.data import (
    ProblemLog,
    UnreadableVideosError,
    VideoProblem,
)


def test_problem_log(tmp_path: Path) -> None:
    path = tmp_path / "run" / "problems.tsv"
    first, second = VideoProblem("b.mp4", "gone"), VideoProblem("a b.mp4", "empty")
    log = ProblemLog(path)
    assert log.add([]) == [] and not path.exists()
    assert log.add([first, second, first]) == [first, second]
    assert log.add([first]) == []
    assert (len(log), log.replaced) == (2, 4)
    assert path.read_text() == "a b.mp4\tempty\t1\nb.mp4\tgone\t3\n"
    resumed = ProblemLog(path)
    assert resumed.add([first]) == [] and resumed.counts == {first: 4, second: 1}
    assert [file.name for file in path.parent.iterdir()] == ["problems.tsv"]


def test_share_of_bad_videos(tmp_path: Path) -> None:
    log = ProblemLog(tmp_path / "bad.tsv")
    log.add([VideoProblem(f"{i}.mp4", "gone") for i in range(20)] * 3)  # a video counts once
    log.check_share(0.1, seen=5, num_videos=10**6)  # 20 of the first 200
    log.check_share(0.02, seen=1000, num_videos=10**6)
    log.check_share(0.5, seen=10**6, num_videos=40)
    for share, seen, videos in ((0.099, 5, 10**6), (0.019, 1000, 10**6), (0.49, 10**6, 40), (0.0, 0, 10**6)):
        with pytest.raises(UnreadableVideosError, match=rf"20 of about \d+ videos .* {share:g} .*bad.tsv"):
            log.check_share(share, seen, videos)
    ProblemLog().check_share(0.0, 0, 1)
