"""The package works under another name, beside itself in one process: each copy has ops of its own."""

import shutil
from pathlib import Path

import pytest

from tests.kernels.test_import import PACKAGE, run

SAME_RESULTS = """
import sys
import torch

{environment}
sys.path.insert(0, {folder!r})
from other_name import vendored_kernels
assert "videomae_kernels" not in sys.modules, "the copy imports the original"
import videomae_kernels

def results(vk):
    torch.manual_seed(0)
    clip, patch = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8), (2, 4, 4)
    visible = vk.tube_mask_index(torch.arange(2), (2, 2, 2), 0.5, seed=0)
    crops = vk.crop_clips(list(clip.movedim(1, 4)), [0, 1], [(0, 1, 8, 6)] * 2, [False, True], (8, 8))
    pred = torch.randn(2, 4, 96, requires_grad=True)
    loss = vk.masked_patch_loss(pred, clip, visible, patch) + vk.masked_patch_loss(pred, crops, visible, patch)
    rows = vk.gather_tokens(vk.masked_token_scatter(pred, visible, 8), visible)
    return [visible, vk.patch_targets(clip, visible, patch), loss, *torch.autograd.grad(loss + rows.sum(), pred)]

for ours, theirs in zip(results(videomae_kernels), results(vendored_kernels), strict=True):
    assert torch.equal(ours, theirs)
defined = torch._C._dispatch_get_all_op_names()
ops = [{{name.split("::")[1] for name in defined if name.startswith(f"{{namespace}}::")}} for namespace in
       ("videomae_kernels", "other_name__vendored_kernels")]
assert ops[0] == ops[1] and "masked_patch_loss" in ops[0], ops
kernels = vendored_kernels.masked_patch_loss.__module__, videomae_kernels.masked_patch_loss.__module__
print(*kernels, {{name for name in sys.modules if name.endswith("pixels.triton.clip")}} or "no kernel")
"""


@pytest.mark.parametrize("interpret", [False, True], ids=["reference", "interpreter"])
def test_two_copies_in_one_process(interpret: bool, tmp_path: Path) -> None:
    if interpret:
        pytest.importorskip("triton")
    shutil.copytree(PACKAGE, tmp_path / "other_name" / "vendored_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "other_name" / "__init__.py").touch()
    environment = "import os; os.environ['TRITON_INTERPRET'] = '1'" if interpret else ""
    found = run(SAME_RESULTS.format(folder=str(tmp_path), environment=environment)).strip()
    assert found.startswith("other_name.vendored_kernels.pixels.loss videomae_kernels.pixels.loss ")
    assert ("'other_name.vendored_kernels.pixels.triton.clip'" in found) is interpret
    assert found.endswith("no kernel") is not interpret
