import errno
from pathlib import Path, PureWindowsPath

import pytest

from videomae_fast import _files
from videomae_fast._files import atomic_write, partial_path, path_inside


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/b.mp4"], "a/b.mp4"),
        (["/a/b.mp4"], "a/b.mp4"),
        (["//a/b.mp4"], "a/b.mp4"),
        (["///a//b.mp4"], "a/b.mp4"),
        (["../../a/../b.mp4"], "a/b.mp4"),
        (["./a/./b.mp4"], "a/b.mp4"),
        (["x.tar", "//etc/b.mp4"], "x.tar/etc/b.mp4"),
        (["x.tar", "/../b.mp4"], "x.tar/b.mp4"),
        (["..."], "..."),
        (["a\nb\x1b.mp4"], "a\nb\x1b.mp4"),
    ],
)
def test_every_name_goes_below_the_folder(tmp_path: Path, names: list[str], expected: str) -> None:
    assert path_inside(tmp_path, *names) == tmp_path / expected
    assert path_inside(Path("new"), *names) == Path("new") / expected


@pytest.mark.parametrize("name", ["C:\\a\\b", "C:a\\b", "\\\\server\\share\\a\\b", "\\a\\b", "//?/C:/a/b", "..\\a/b"])
def test_drives_and_servers_of_windows_are_dropped(name: str) -> None:
    assert _files._inner_parts(PureWindowsPath(name)) == ["a", "b"]


@pytest.mark.parametrize("name", ["", ".", "/", "..", "../..", "//"])
def test_names_of_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="its name is empty"):
        path_inside(tmp_path, name)


def test_nul(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its name has a NUL character"):
        path_inside(tmp_path, "a\0b")


def test_links_that_lead_out(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    (folder / "inner").mkdir(parents=True)
    (folder / "in").symlink_to("inner")
    (folder / "out").symlink_to("..")
    (folder / "gone.mp4").symlink_to(tmp_path / "not there.mp4")
    assert path_inside(folder, "in/a.mp4") == folder / "in" / "a.mp4"
    for name in ("out", "out/a.mp4", "gone.mp4"):
        with pytest.raises(ValueError, match="a link leads there"):
            path_inside(folder, name)
    (tmp_path / "link").symlink_to(folder)  # the folder itself may be a link
    assert path_inside(tmp_path / "link", "a.mp4") == tmp_path / "link" / "a.mp4"


def test_what_a_killed_process_left_is_replaced_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("as it was")
    partial_path(tmp_path / "a").symlink_to(tmp_path / "kept")
    with atomic_write(tmp_path / "a") as partial:
        assert not partial.exists()
        partial.write_text("new")
    assert (tmp_path / "kept").read_text() == "as it was" and (tmp_path / "a").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "kept"]


def test_errors_of_the_disk_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'"), atomic_write(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())
