import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from videomae_fast import environment
from videomae_fast._optional import EXTRAS
from videomae_fast.cli import main
from videomae_fast.data.readers import READERS
from videomae_fast.environment import describe, probe
from videomae_fast.models.attention import BACKENDS


def install(folder: Path, name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of that name, as if installed."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, name, None)  # so that whatever is imported under the name is gone after the test
    del sys.modules[name]


def uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no optional package were installed."""
    find_spec = environment.importlib.util.find_spec
    missing = lambda name, package=None: None if name in EXTRAS else find_spec(name, package)  # noqa: E731
    monkeypatch.setattr(environment.importlib.util, "find_spec", missing)


def section(text: str, title: str) -> str:
    return next(part for part in text.split("\n\n") if part.startswith(title))


def test_versions_of_what_is_there() -> None:
    text = describe()
    assert f"torch {torch.__version__}" in text
    assert f"numpy {environment.numpy.__version__}" in text
    assert "python {}.{}.{}".format(*sys.version_info) in text


def test_reader_names_are_packages() -> None:
    assert READERS.keys() <= EXTRAS.keys()


def test_all_backends_and_readers_are_listed() -> None:
    text = describe()
    assert all(f"attention {name}: " in section(text, "cpu") for name in BACKENDS)
    assert all(f"  {name}: " in section(text, "video readers") for name in READERS)


def test_backend_without_its_package_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert "pip install 'videomae-fast[flash-attn]'" in section(describe(), "cpu").split("attention flash-attn: ")[1]


def test_cpu_runs_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "ops: plain-torch reference, because Triton needs a GPU" in section(describe(), "cpu")


def test_interpreter_runs_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "ops: Triton kernels in Triton's interpreter" in section(describe(), "cpu")


def test_kernels_without_triton_run_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    uninstall(monkeypatch)
    ops = section(describe(), "cpu")
    assert "ops: none, because Triton is needed here" in ops
    assert "pip install 'videomae-fast[triton]'" in ops


def test_nothing_optional_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    uninstall(monkeypatch)
    text = describe()
    for name, extra in EXTRAS.items():
        assert f"{name}: not installed; pip install 'videomae-fast[{extra}]'" in text
    assert "decord: not installed" in section(text, "video readers")


def test_package_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "xformers", "raise OSError('libcudart.so.12: not found\\nmore')", monkeypatch)
    assert probe("xformers").problem == "installed, but cannot be imported (libcudart.so.12: not found)"


def test_package_that_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "deepspeed", "print('hello'); __version__ = '1.2'", monkeypatch)
    assert str(probe("deepspeed")) == "deepspeed 1.2"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("modules", "warned"), [((), True), (("optimizers",), False), (("normalization",), False)])
def test_unrelated_apex(
    modules: tuple[str, ...], warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "apex", "raise ImportError('pyramid')", monkeypatch)
    for module in modules:
        (tmp_path / "apex" / module).mkdir()
    assert ("unrelated PyPI package" in describe()) == warned


def test_no_apex_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_spec", lambda name: None)
    assert "apex" not in describe()


@pytest.mark.parametrize(
    ("active", "expected"), [("FA3", "available, runs FA3"), (None, "available, runs the flash attention of PyTorch")]
)
def test_the_flash_attention_of_a_gpu(active: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="Some GPU", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: active, raising=False)
    text = describe()
    assert f"  attention sdpa: {expected}" in section(text, "cuda:0: Some GPU, capability 9.0, 80 GiB")
    assert "  attention sdpa: available\n" in section(text, "cpu")


def test_the_command_activates_what_training_activates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    activated: list[str] = []
    monkeypatch.setattr("videomae_fast.models.attention.activate_flash_attention", activated.append)
    for has_gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert main(["env"]) == 0 and activated == ["cuda"] * has_gpu
    assert "attention sdpa" in capsys.readouterr().out
