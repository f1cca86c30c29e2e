"""Linear maps: the options of `linear`, inputs made again in backward, and the casts of autocast in one launch."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.test_layers import Doubled, LowRank, randomise, run
from videomae_fast.models.layers import Block
from videomae_fast.models.linear import Linear, Source, autocast_copies, linear


@pytest.mark.parametrize("wrapper", [lambda layer: layer, lambda layer: nn.Sequential(layer)], ids=["ours", "another"])
def test_linear(wrapper: Callable[[nn.Module], nn.Module]) -> None:
    """Selected outputs and a bias of another module, with a `Linear` and with another class."""
    own = Linear(4, 6, bias=False).double()
    x, bias = torch.randn(3, 4, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    expected = (x @ own.weight.T + bias)[:, 1:3]
    torch.testing.assert_close(linear(x, wrapper(own), bias=bias, out=slice(1, 3)), expected, rtol=1e-12, atol=1e-12)


def test_linear_keeps_the_autocast_dtype() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(3, 4), nn.Linear(4, 2), bias=torch.ones(2)).dtype == torch.bfloat16


def test_linear_pads_its_own_layers_only() -> None:
    x = torch.randn(3, 4)
    padded = linear(x, Linear(4, 6), padding=2)
    assert padded.shape == (3, 8) and not padded[:, 6:].any()
    with pytest.raises(TypeError, match=r"padding needs a .*Linear, got Sequential"):
        linear(x, nn.Sequential(nn.Linear(4, 6)), padding=2)


def test_linear_leaves_the_bias_of_its_own_layers_only() -> None:
    own, x = Linear(4, 6), torch.randn(3, 4)
    assert torch.equal(linear(x, own, add_bias=False), x @ own.weight.T)
    with pytest.raises(TypeError, match=r"add_bias=False needs a .*Linear, got Sequential"):
        linear(x, nn.Sequential(nn.Linear(4, 6)), add_bias=False)


@pytest.mark.parametrize("padding", [0, 2, -2])
@pytest.mark.parametrize("out", [None, slice(1, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_input_made_again_changes_no_bit(out: slice | None, padding: int, dtype: torch.dtype) -> None:
    """Backward keeps what the input is made of; gradients with and without a source are bitwise the same."""
    torch.manual_seed(0)
    layer = Linear(5, 6).to(dtype if dtype == torch.float64 else torch.float32)
    of = torch.randn(2, 3, 5 + max(-padding, 0), dtype=dtype, requires_grad=True)
    found, kept = [], []
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for source in (None, Source(F.gelu, (of,))):
            saved: list[Tensor] = []
            x = F.gelu(of)
            with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
                y = linear(x, layer, out=out, padding=padding, source=source)
            kept.append(any(t.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for t in saved))
            weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
            found.append([y, *torch.autograd.grad(y, [of, *layer.parameters()], weight)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept == [True, False]


def test_frozen_weights_with_a_source() -> None:
    """A frozen weight gets no gradient, and its input is not made again for one."""
    layer, made = Linear(5, 6).requires_grad_(False), []
    of = torch.randn(3, 5, requires_grad=True)
    source = Source(lambda t: made.append(1) or F.gelu(t), (of,))
    linear(F.gelu(of), layer, source=source).sum().backward()
    assert of.grad is not None and layer.weight.grad is None and not made


class Launches(TorchDispatchMode):
    """Names of the operations that cast or copy."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        if name in ("_to_copy", "copy_", "_foreach_copy_", "cat", "zeros_like"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def autocast_step(block: Block, x: Tensor, cache: bool = False, rows: int | None = None) -> list[str]:
    """Forward and backward under autocast; the casts and copies in them."""
    with Launches() as launches:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cache):
            loss = run(block, x, rows).float().square().sum()
        loss.backward()
    return launches.names


def bf16_block(**options: object) -> tuple[Block, Tensor]:
    torch.manual_seed(0)
    block = randomise(Block(12, 3, 48, recompute="never", **options)).float()  # type: ignore[arg-type]
    return block, torch.randn(2, 5, 12, dtype=torch.bfloat16, requires_grad=True)


@pytest.mark.parametrize("cache", [False, True])
def test_one_launch_casts_the_weights_and_one_the_gradients(cache: bool) -> None:
    """No zeros and no cat for the bias of the keys, and autocast's own cache has nothing to add."""
    block, x = bf16_block()
    names = autocast_step(block, x, cache)
    assert names.count("_foreach_copy_") == 2 and not {"cat", "zeros_like", "copy_"} & set(names)
    # CPU references of the norms and of the GELU cast too; no weight of a matrix product does
    with torch.autocast("cpu", torch.bfloat16), Launches() as casts:
        layers = (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
        copies = autocast_copies("cpu", layers, (block.attn.qkv, block.attn.biases()))
    assert casts.names == ["_foreach_copy_"] and list(copies) == list(layers)
    for layer, (weight, bias) in copies.items():
        assert torch.equal(weight, layer.weight.bfloat16())
        parts = block.attn.biases() if layer is block.attn.qkv else (layer.bias,)
        assert bias is not None and torch.equal(bias, torch.cat([part.bfloat16() for part in parts]))


@pytest.mark.parametrize("rows", [None, 3])
def test_copies_change_no_bit(rows: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against autocast's own casts of every weight."""
    block, x = bf16_block()
    autocast_step(block, x, rows=rows)
    ours = [x.grad, *(p.grad for p in block.parameters())]
    twin, x = copy.deepcopy(block), x.detach().requires_grad_()
    twin.zero_grad()
    monkeypatch.setattr("videomae_fast.models.layers.autocast_copies", lambda *_: {})
    assert "_foreach_copy_" not in autocast_step(twin, x, rows=rows)
    for a, b in zip(ours, [x.grad, *(p.grad for p in twin.parameters())], strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_no_copies_outside_autocast_or_of_weights_in_its_dtype() -> None:
    block, x = bf16_block()
    assert "_foreach_copy_" not in (lambda: autocast_none(block.double(), x))()
    block, x = bf16_block()
    assert "_foreach_copy_" not in autocast_step(block.bfloat16(), x)  # as FSDP2's own mixed precision leaves them


def autocast_none(block: Block, x: Tensor) -> list[str]:
    with Launches() as launches:
        run(block, x.detach().double()).sum().backward()
    return launches.names


def double_weight(layer: nn.Module, args: object) -> None:
    layer.weight.data *= 2


def wrapped(block: Block, how: str) -> None:
    """Let something act on the weight of fc1 at its call."""
    if how == "another class":
        block.mlp.fc1 = LowRank(block.mlp.fc1)
    elif how == "parametrised":
        nn.utils.parametrize.register_parametrization(block.mlp.fc1, "weight", Doubled())
    else:
        block.mlp.fc1.register_forward_pre_hook(double_weight)


@pytest.mark.parametrize("how", ["another class", "parametrised", "forward pre-hook"])
def test_a_layer_whose_weight_something_acts_on_is_left_to_autocast(how: str) -> None:
    block, x = bf16_block()
    plain = copy.deepcopy(block)
    wrapped(block, how)
    if how != "another class":
        plain.mlp.fc1.weight.data *= 2
    else:
        torch.nn.init.zeros_(block.mlp.fc1.up.weight)  # type: ignore[union-attr]
    with torch.autocast("cpu", torch.bfloat16):
        copies = autocast_copies("cpu", (block.mlp.fc1, block.mlp.fc2))
        torch.testing.assert_close(run(block, x), run(plain, x), rtol=2e-2, atol=2e-2)
    assert list(copies) == [block.mlp.fc2]


@pytest.mark.parametrize("frozen", ["mlp.fc1.weight", "attn.v_bias", "attn.qkv.weight", "all"])
def test_frozen_parameters_have_no_gradients_and_change_no_other(frozen: str) -> None:
    block, x = bf16_block()
    autocast_step(block, x)
    expected = {name: p.grad for name, p in block.named_parameters()}
    block.zero_grad()
    for name, parameter in block.named_parameters():
        parameter.requires_grad_(frozen not in ("all", name))
    names = autocast_step(block, x)
    assert names.count("_foreach_copy_") == (1 if frozen == "all" else 2)
    for name, parameter in block.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, expected[name]), name
        else:
            assert parameter.grad is None


def test_tied_weights_and_accumulation() -> None:
    """A weight of two blocks gets the sum of its gradients, and a second backward adds to the first."""
    first, x = bf16_block()
    second, _ = bf16_block()
    second.mlp.fc1.weight = first.mlp.fc1.weight

    def gradient() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            (run(first, x) + run(second, x)).float().square().sum().backward()
        return first.mlp.fc1.weight.grad

    once = gradient().clone()
    assert torch.equal(gradient(), 2 * once)


def test_a_module_that_was_empty_has_zero_key_biases() -> None:
    with torch.device("meta"):
        block = Block(12, 3, 48)
    block.to_empty(device="cpu")
    assert not block.attn.k_bias.any() and "attn.k_bias" not in block.state_dict()
