"""Attention backends: the same result or a clear error, never another backend."""

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from videomae_fast import VideoMAEConfig, VideoMAEForPretraining, make_masks
from videomae_fast.models import attention as module
from videomae_fast.models.attention import (
    BACKENDS,
    activate_flash_attention,
    active_flash_attention,
    attention,
    check_backend,
    unavailable_reason,
)
from videomae_fast.models.layers import Attention

OPTIONAL = {"flash-attn": ("flash_attn", "flash_attn_func"), "xformers": ("xformers.ops", "memory_efficient_attention")}
TINY = VideoMAEConfig(16, 1, 2, 16, 2, decoder_depth=1, num_frames=8, image_size=(16, 16), patch_size=8)
optional = pytest.mark.parametrize("backend", OPTIONAL)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v of (B, n, h, d) tensors, written out."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def qkv(dtype: torch.dtype = torch.float64, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Fewer queries than keys, as in the last decoder block; the strides of a packed projection."""
    torch.manual_seed(0)
    q = torch.randn(2, 5, 3, 8, dtype=dtype, device=device)
    k, v = torch.randn(2, 9, 2, 3, 8, dtype=dtype, device=device).unbind(2)
    return q, k, v


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Modules in the place of flash-attn and xformers, whose functions take and return (B, n, h, d); names called."""
    called: list[str] = []
    for name, function in OPTIONAL.values():
        stand_in = ModuleType(name)

        def compute(q: Tensor, k: Tensor, v: Tensor, name: str = name) -> Tensor:
            called.append(name)
            return plain(q, k, v)

        setattr(stand_in, function, compute)
        if "." in name:
            monkeypatch.setitem(sys.modules, name.split(".")[0], ModuleType(name.split(".")[0]))
        monkeypatch.setitem(sys.modules, name, stand_in)
    return called


def test_backends_are_known() -> None:
    assert set(BACKENDS) == {"sdpa", *OPTIONAL}


def test_sdpa() -> None:
    out = attention(*qkv(), backend="sdpa")
    assert out.shape == (2, 5, 3, 8)
    torch.testing.assert_close(out, plain(*qkv()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_packed_tensors(count: int, stand_ins: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed or not, results and gradients are the same; flash-attn gets packed tensors as they are."""
    torch.manual_seed(0)
    packed = torch.randn(2, 9, 4 - count, 3, 8, dtype=torch.float64, requires_grad=True)
    q = torch.randn(2, 5, 3, 8, dtype=torch.float64, requires_grad=True)
    qkv = (packed,) if count == 1 else (q, packed)
    expected = plain(*qkv[:-1], *packed.unbind(2))
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), qkv)
    called: list[str] = []
    for name in ("flash_attn_qkvpacked_func", "flash_attn_kvpacked_func"):

        def compute(*qkv: Tensor, name: str = name) -> Tensor:
            called.append(name)
            return plain(*qkv[:-1], *qkv[-1].unbind(2))

        monkeypatch.setattr(sys.modules["flash_attn"], name, compute, raising=False)
    for function in (BACKENDS["sdpa"], module._flash_attn, module._xformers):
        out = function(*qkv)
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(torch.autograd.grad((out * weight).sum(), qkv), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert called == ["flash_attn_qkvpacked_func" if count == 1 else "flash_attn_kvpacked_func"]
    assert stand_ins == ["xformers.ops"]


@optional
def test_optional_backend_takes_the_same_layout(backend: str, stand_ins: list[str]) -> None:
    function = {"flash-attn": module._flash_attn, "xformers": module._xformers}[backend]
    assert BACKENDS[backend] is function
    torch.testing.assert_close(function(*qkv()), attention(*qkv(), backend="sdpa"), rtol=1e-12, atol=1e-12)
    assert stand_ins == [OPTIONAL[backend][0]]


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match=r"attention must be one of \('sdpa', 'flash-attn', 'xformers'\), got 'fast'"):
        check_backend("fast")
    with pytest.raises(ValueError, match="got 'fast'"):
        VideoMAEForPretraining(VideoMAEConfig(16, 1, 2, 16, 2, attention="fast"))


@optional
def test_missing_package_names_the_extra(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, OPTIONAL[backend][0].split(".")[0], None)
    monkeypatch.setitem(sys.modules, OPTIONAL[backend][0], None)
    for build in (check_backend, lambda name: VideoMAEForPretraining(VideoMAEConfig(16, 1, 2, 16, 2, attention=name))):
        with pytest.raises(ImportError, match=rf"pip install 'videomae-fast\[{backend}\]'"):
            build(backend)
    reason = unavailable_reason(backend, "cuda")
    assert reason is not None and f"videomae-fast[{backend}]" in reason


@optional
@pytest.mark.parametrize("stand_in", ["nothing", "not callable"])
def test_package_without_the_function(
    backend: str, stand_in: str, stand_ins: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation of another package under the same name: flash-attn-4 is a `flash_attn` without the function."""
    module_name, function = OPTIONAL[backend]
    if stand_in == "nothing":
        monkeypatch.delattr(sys.modules[module_name], function)
    else:
        monkeypatch.setattr(sys.modules[module_name], function, None)
    message = (
        rf"attention='{backend}' calls {module_name}\.{function}, which .* does not have .*videomae-fast\[{backend}\]"
    )
    with pytest.raises(ImportError, match=message):
        check_backend(backend)
    reason = unavailable_reason(backend, "cuda")
    assert reason is not None and function in reason


@optional
def test_optional_backend_needs_cuda(backend: str, stand_ins: list[str]) -> None:
    with pytest.raises(ValueError, match=f"attention='{backend}' runs on CUDA devices only, got tensors on cpu"):
        attention(*qkv(), backend=backend)
    assert unavailable_reason(backend, "cpu") == f"{backend} runs on CUDA devices only"
    assert unavailable_reason(backend, "cuda") is None
    config = VideoMAEConfig(**{**vars(TINY), "attention": backend})
    with pytest.raises(ValueError, match="runs on CUDA devices only"):
        VideoMAEForPretraining(config)(torch.rand(1, 3, 8, 16, 16), make_masks(torch.arange(1), config.grid))
    assert not stand_ins  # never reached


def test_sdpa_is_available_everywhere() -> None:
    assert unavailable_reason("sdpa", "cpu") is None and unavailable_reason("sdpa", "cuda:1") is None


def test_flash_attn_needs_half_precision(stand_ins: list[str]) -> None:
    """Shapes and devices only: these CUDA tensors have no storage."""
    with FakeTensorMode():
        for dtype in (torch.float32, torch.float64):
            with pytest.raises(TypeError, match=f"needs float16 or bfloat16, got {dtype}: use autocast"):
                attention(*qkv(dtype, "cuda"), backend="flash-attn")
        assert not stand_ins
        for dtype in (torch.float16, torch.bfloat16):
            assert attention(*qkv(dtype, "cuda"), backend="flash-attn").shape == (2, 5, 3, 8)
        assert attention(*qkv(torch.float32, "cuda"), backend="xformers").dtype == torch.float32
    assert stand_ins == ["flash_attn", "flash_attn", "xformers.ops"]


def test_every_block_uses_the_backend_of_the_config(stand_ins: list[str]) -> None:
    config = VideoMAEConfig(**{**vars(TINY), "attention": "flash-attn", "encoder_depth": 2, "decoder_depth": 3})
    modules = VideoMAEForPretraining(config).modules()
    assert [part.backend for part in modules if isinstance(part, Attention)] == ["flash-attn"] * 5


def test_what_a_model_asks_of_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed tensors; the last decoder block computes the queries of its last rows only."""
    shapes: list[tuple[torch.Size, ...]] = []

    def record(*qkv: Tensor) -> Tensor:
        shapes.append(tuple(t.shape for t in qkv))
        return plain(*module._unpack(qkv))

    monkeypatch.setitem(BACKENDS, "sdpa", record)
    plan = make_masks(torch.arange(3), TINY.grid, mask_ratio=0.5)
    VideoMAEForPretraining(TINY)(torch.rand(3, 3, 8, 16, 16), plan)
    visible, rows = plan.visible.shape[1], plan.predicted.shape[1]
    assert shapes == [((3, visible, 3, 2, 8),), ((3, rows, 2, 8), (3, visible + plan.decoded.shape[1], 2, 2, 8))]


class Registry:
    """PyTorch's registry of flash attentions on a machine with a GPU; `installed` can be activated."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, installed: dict[str, Exception | None], major: int) -> None:
        self.installed, self.active, self.tried = installed, None, []
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
        for name, function in (
            ("list_flash_attention_impls", lambda: ["FA3", "FA4"]),
            ("activate_flash_attention_impl", self.activate),
            ("current_flash_attention_impl", lambda: self.active),
        ):
            monkeypatch.setattr(torch.nn.attention, name, function, raising=False)

    def activate(self, name: str) -> None:
        self.tried.append(name)
        error = self.installed.get(name, ModuleNotFoundError(name))
        if error is not None:
            raise error
        self.active = name


@pytest.mark.parametrize(
    "installed, major, tried, active",
    [
        (("FA3", "FA4"), 9, ["FA3"], "FA3"),
        (("FA4",), 9, ["FA3", "FA4"], "FA4"),
        (("FA3", "FA4"), 10, ["FA4"], "FA4"),
        (("FA3",), 10, ["FA4"], None),
        (("FA3", "FA4"), 8, [], None),
        ((), 9, ["FA3", "FA4"], None),
    ],
)
def test_sdpa_activates_what_is_installed_and_runs_on_the_gpu(
    installed: tuple[str, ...], major: int, tried: list[str], active: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(monkeypatch, dict.fromkeys(installed), major)
    assert activate_flash_attention("cuda:0") == active == active_flash_attention()
    assert registry.tried == tried
    if active is not None:
        assert activate_flash_attention("cuda:0") == active and registry.tried == tried  # once is enough


def test_a_broken_package_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(monkeypatch, {"FA3": RuntimeError("does not expose FA3 kernels"), "FA4": None}, 9)
    with pytest.warns(UserWarning, match="FA3 is installed, but PyTorch cannot activate it: does not expose"):
        assert activate_flash_attention("cuda") == "FA4"
    assert registry.tried == ["FA3", "FA4"]


def test_nothing_is_activated_on_a_cpu_or_by_an_old_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(monkeypatch, {"FA3": None}, 9)
    assert activate_flash_attention("cpu") is None and active_flash_attention() is None
    for name in ("activate_flash_attention_impl", "current_flash_attention_impl"):
        monkeypatch.delattr(torch.nn.attention, name)
    assert activate_flash_attention("cuda") is None and active_flash_attention() is None
    assert not registry.tried


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@optional
def test_optional_backend_on_a_gpu(backend: str) -> None:
    """Output and gradients within the error that SDPA's own maths has in this precision."""
    if importlib.util.find_spec(OPTIONAL[backend][0].split(".")[0]) is None:
        pytest.skip(f"{backend} is not installed")
    torch.manual_seed(0)
    for head in (64, 80, 88):
        shapes = (2, 70, 4, head), (2, 94, 4, head), (2, 94, 4, head)
        inputs = [torch.randn(s, device="cuda").to(torch.bfloat16).requires_grad_() for s in shapes]
        exact = [x.detach().double().requires_grad_() for x in inputs]
        expected = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in exact)).transpose(1, 2)
        weight = torch.randn_like(expected)
        wanted = [expected.detach(), *torch.autograd.grad((expected * weight).sum(), exact)]

        def results(name: str, inputs: list[Tensor] = inputs, weight: Tensor = weight) -> list[Tensor]:
            out = attention(*inputs, backend=name)
            return [out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)]

        for ours, sdpa, value in zip(results(backend), results("sdpa"), wanted, strict=True):
            budget = 2 * (sdpa - value).abs().max() + 1e-3 * value.abs().max()
            assert (ours - value).abs().max() <= budget, (head, budget)
