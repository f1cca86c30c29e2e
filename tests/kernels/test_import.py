"""The package stands alone: no Triton, no videomae_fast, no CUDA is needed to import it and to run on a CPU."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import videomae_kernels

PACKAGE = Path(videomae_kernels.__file__).parent
ROOT = Path(__file__).parents[2]


def run(code):
    """Run `code` in a fresh interpreter that does not interpret Triton kernels."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join((str(PACKAGE.parent), str(ROOT)))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_does_not_import_triton():
    code = "import sys, videomae_kernels; print({m.split('.')[0] for m in sys.modules} & {'triton', 'videomae_fast'})"
    assert run(code).strip() == "set()"


def test_schemas_are_of_types_that_torch_2_6_reads():
    code = (
        "import collections.abc, inspect, torch, typing\n"
        "infer_schema, read = torch.library.infer_schema, []\n"
        "def as_in_2_6(function, **options):\n"
        "    for parameter in inspect.signature(function).parameters.values():\n"
        "        name = repr(parameter.annotation)\n"
        "        assert 'collections.abc' not in name and 'list[' not in name, name\n"
        "        read.append(name)\n"
        "    return infer_schema(function, **options)\n"
        "torch.library.infer_schema = as_in_2_6\n"
        "import videomae_kernels\n"
        "print('typing.Sequence[int]' in read)\n"
    )
    assert run(code).strip() == "True"


FORBID_TRITON = """
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'triton':
            raise ImportError(f'{name} is forbidden here')

sys.meta_path.insert(0, Forbid())
"""


def test_every_reference_runs_without_triton():
    code = FORBID_TRITON + (
        "from tests.kernels.cases import CASES\n"
        "for case in CASES:\n"
        "    out = case.call(*case(grad=case.differentiable))\n"
        "    if case.differentiable:\n"
        "        out.sum().backward()\n"
        "    print(case.name)\n"
        "assert 'triton' not in sys.modules\n"
    )
    from tests.kernels.cases import CASES

    assert run(code).split() == [case.name for case in CASES]


def test_a_missing_triton_is_named_with_its_remedy():
    code = FORBID_TRITON + (
        "import os, torch, videomae_kernels\n"
        "os.environ['TRITON_INTERPRET'] = '1'\n"
        "try:\n"
        "    videomae_kernels.gather_tokens(torch.ones(1, 2, 3), torch.zeros(1, 1, dtype=torch.int64))\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert "pip install triton" in run(code)


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_what_a_file_may_import(path):
    allowed = set(sys.stdlib_module_names) | {"torch"}  # and its own files by relative imports: it may be vendored
    if path.parent.name == "triton" or path.name in ("triton.py", "_tiling.py"):
        allowed.add("triton")
    assert {name.split(".")[0] for name in imported_modules(path)} <= allowed


def test_the_kind_of_a_clip_is_asked_once():
    """By `open_clip`; below it, both kinds are lists of tensors."""
    asked = [path.name for path in PACKAGE.rglob("*.py") if "isinstance(clip," in path.read_text(encoding="utf-8")]
    assert asked == ["clip.py"]
