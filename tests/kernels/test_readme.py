"""kernels/README.md: its Python blocks run, and its tables name every public function."""

import re
from pathlib import Path

import pytest

import videomae_kernels as vk
from tests.kernels.cases import NOT_OPS

README = Path(__file__).parents[2] / "kernels" / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert namespace["pixels"].shape == (2, 160, 1536)


def test_the_package_docstring_has_the_same_example() -> None:
    assert vk.__doc__ is not None
    namespace: dict[str, object] = {}
    lines = [line.removeprefix("    ") for line in vk.__doc__.splitlines() if line.startswith("    ")]
    exec("\n".join(lines), namespace)
    assert namespace["pixels"].shape == (2, 160, 1536)


def test_tables_have_every_op() -> None:
    ops = set(re.findall(r"^\| `(\w+)\(", TEXT, re.MULTILINE))
    assert ops == set(vk.__all__) - NOT_OPS


def test_files_exist() -> None:
    """Names in the first column of "Where things are", each in the folder of the name before it if it has none."""
    rows = TEXT.split("| file | has |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    package = README.parent / "videomae_kernels"
    for row in rows:
        folder = ""
        for name in re.findall(r"`([\w/]+\.py)`", row.split(" | ")[0]):
            folder = name.rpartition("/")[0] or folder
            assert (package / folder / name.rpartition("/")[2]).exists(), name
