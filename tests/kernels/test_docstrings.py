"""`help(videomae_kernels.<op>)` is complete: sections that documentation tools know, and every parameter by name."""

import inspect
import re

import pytest

import videomae_kernels as vk

CALLABLE = sorted(name for name in vk.__all__ if callable(getattr(vk, name)))
SECTION = re.compile(r"^(\w+):\n((?:    .*\n?|\n)+)", re.MULTILINE)


def sections(function: object) -> dict[str, str]:
    """Text of each section of a docstring, its indentation removed."""
    return {name: inspect.cleandoc(text) for name, text in SECTION.findall(inspect.getdoc(function) + "\n")}


@pytest.mark.parametrize("name", CALLABLE)
def test_sections(name: str) -> None:
    function = getattr(vk, name)
    found = sections(function)
    wanted = {"Args", "Raises"} if inspect.isclass(function) else {"Args", "Returns", "Raises"}
    if not inspect.signature(function).parameters:
        wanted -= {"Args"}
    assert wanted <= found.keys()
    assert all(found.values())


@pytest.mark.parametrize("name", CALLABLE)
def test_every_parameter_is_described(name: str) -> None:
    function = getattr(vk, name)
    described = re.findall(r"^(\w+): \S", sections(function).get("Args", ""), re.MULTILINE)
    assert described == list(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", CALLABLE)
def test_no_docstring_sends_its_reader_elsewhere(name: str) -> None:
    assert "module docstring" not in inspect.getdoc(getattr(vk, name))
