"""The progress bar: with tqdm and without."""

import sys

import pytest

from videomae_fast.memory.progress import progress_bar


@pytest.mark.parametrize("installed", [True, False])
def test_parts_are_counted(
    installed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress_bar(2, "parts") as advance:
        for _ in range(3):  # more than were expected
            advance()
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.split("\r")[-1]
    assert ("3/3" if installed else "3 of 3 parts") in last


def test_fewer_than_expected_end_as_complete(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    with progress_bar(5, "parts") as advance:
        advance()
    assert "1/1" in capsys.readouterr().err.split("\r")[-1]
