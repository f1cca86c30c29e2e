"""`help()` on anything public of the data room names every argument, what comes back and what can go wrong."""

import inspect
import re
from collections.abc import Callable

import pytest

from videomae_fast import data
from videomae_fast.data import augment

NAMES = {**{name: getattr(data, name) for name in data.__all__}, **{n: getattr(augment, n) for n in augment.__all__}}
PUBLIC = {name: value for name, value in NAMES.items() if value.__class__.__name__ != "str"}
FUNCTIONS = {
    **{name: value for name, value in PUBLIC.items() if inspect.isfunction(value)},
    **{
        f"{name}.{method}": function
        for name, value in PUBLIC.items()
        if inspect.isclass(value)
        for method, function in vars(value).items()
        if inspect.isfunction(function) and not method.startswith("_")
    },
}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}


def undocumented(parameters: list[str], text: str) -> list[str]:
    """Parameters without an entry ("name: ..." or "name, other: ...") in a docstring."""
    listed = {name for line in re.findall(r"^ +([a-z_, ]+):", text, re.MULTILINE) for name in line.split(", ")}
    return [name for name in parameters if name not in listed]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    function: Callable = FUNCTIONS[name]
    text, signature = inspect.getdoc(function), inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters if parameter != "self"]
    assert text and not undocumented(parameters, text)
    if parameters:
        assert "Args:\n" in text
        assert ("Returns:\n" in text) == (signature.return_annotation not in (None, "None"))
    if "raise " in inspect.getsource(function):
        assert "Raises:\n" in text


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name: str) -> None:
    kind = CLASSES[name]
    text = inspect.getdoc(kind)
    assert text and not text.startswith(f"{name}(")  # not the one that NamedTuple and dataclass make
    if kind in (data.CropBox, data.VideoReader) or issubclass(kind, data.UnreadableVideosError):
        return  # four numbers that the first line names; a protocol, documented at its methods; a message
    parameters = [parameter for parameter in inspect.signature(kind).parameters if parameter != "self"]
    assert not undocumented(parameters, text)
