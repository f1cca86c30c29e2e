"""A run that is cut off keeps what it measured, and the next one goes on from there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness.journal import Journal, read_journal

MACHINE = {"device": "d", "commit": "c", "versions": {"torch": "3"}, "threads": 2}


def measured(record: dict[str, Any], *seconds: float) -> Any:
    """What pytest-benchmark's fixture holds after a test."""
    return SimpleNamespace(
        stats=SimpleNamespace(stats=SimpleNamespace(data=list(seconds))), extra_info={"record": record}
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", MACHINE)
    assert journal.finished == set()
    journal.add("one", measured({"name": "a"}, 1.0, 2.0))
    journal.add("two", measured({"name": "b"}, 3.0))
    found = read_journal(journal.path)
    assert found["machine"] == MACHINE and len(found["date"]) == 19
    assert found["tests"] == [
        {"nodeid": "one", "record": {"name": "a"}, "seconds": [1.0, 2.0]},
        {"nodeid": "two", "record": {"name": "b"}, "seconds": [3.0]},
    ]
    assert Journal(journal.path, MACHINE).finished == {"one", "two"}


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, MACHINE)
    journal.add("one", measured({}, 1.0))
    path.write_text(path.read_text() + '{"nodeid": "two", "rec')
    assert Journal(path, MACHINE).finished == {"one"}


def test_another_line_follows_one_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, MACHINE).add("one", measured({}, 1.0))
    path.write_text(path.read_text() + '{"nodeid": "two", "rec')
    Journal(path, MACHINE).add("two", measured({}, 2.0))
    assert [test["nodeid"] for test in read_journal(path)["tests"]] == ["one", "two"]


@pytest.mark.parametrize("other", [{"device": "e"}, {"commit": "d"}, {"versions": {"torch": "4"}}])
def test_a_journal_of_something_else_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    Journal(tmp_path / "journal", MACHINE)
    with pytest.raises(ValueError, match="cannot be gone on with"):
        Journal(tmp_path / "journal", MACHINE | other)
