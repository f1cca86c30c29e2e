"""Compile every Triton kernel of the library ahead of time, for a GPU that need not be here.

    python tests/aot/compile_kernels.py sm_90          # prints one JSON record per kernel, case and target
    python tests/aot/compile_kernels.py sm_90 ViT-B    # without the cases of other models

The library's own functions run on small batches of CPU tensors, as they would on a GPU, and Triton specialises
and compiles each launch exactly as it does then; only the launch itself is left out. Needs a process in which
TRITON_INTERPRET is not set. Results of the ops are uninitialised memory: only the compiled kernels count.
"""

import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import triton
from resources import resources
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

import videomae_kernels as vk
from tests.ptx import launch as ptx
from videomae_kernels import _custom_op, _tiling

TARGETS = ptx.TARGETS | {
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# name: (encoder width, decoder width, token grid, patch size), at 16 frames of 224 x 224
MODELS = {
    "ViT-B": (768, 384, (8, 14, 14), (2, 16, 16)),
    "ViT-g": (1408, 512, (8, 16, 16), (2, 14, 14)),
}
TEACHERS = {
    "ViT-B": (768, 1408),
    "ViT-g": (3200, 4096),
}  # widths of rows that a student aligns with; 3,200: InternVL-6B
HIDDEN = {"ViT-B": (3072, 1536), "ViT-g": (6144, 2240)}  # units of an MLP, padded: encoder, decoder
LONG_CLIPS = (16, 32, 64, 128, 256, 512)  # frames of 16 x 16 tokens: N = 4,096 to 131,072
# Filters and lines of square boxes: taps in buckets of 2, 3, 6, 8 and 24.
CROPS = (("bilinear", 256), ("pillow", 256), *(("antialias", side) for side in (256, 480, 720, 2160)))
STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def compile_instead_of_launch(target: GPUTarget, compiled: Callable[[str, Any], None]) -> None:
    """From now on every `kernel[grid](...)` compiles for `target` and calls `compiled(name, kernel)`."""
    driver.set_active(ptx.CompileOnlyDriver(target))
    _tiling.warp_threads.cache_clear()  # of another target
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, **kwargs: Any) -> Any:
        kernel = run(self, *args, **(kwargs | {"warmup": True}))
        compiled(full_name(self.fn), kernel)
        return kernel

    JITFunction.run = compile_only
    torch._assert_async = lambda *args: None  # of what no kernel has written
    _custom_op.runs_triton = lambda device: True


def cases(model: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, call) that together launch every kernel with the dtypes and layouts of a training step."""
    width, decoder_width, grid, patch = MODELS[model]
    sample = torch.arange(2)
    tokens = grid[0] * grid[1] * grid[2]
    visible = torch.arange(tokens).expand(2, -1)[:, ::10]
    decode = torch.arange(tokens).expand(2, -1)[:, 1::2]
    mask = torch.zeros(2, tokens, dtype=torch.bool).index_fill_(1, visible[0], True)

    yield "tube_mask_index", lambda: vk.tube_mask_index(sample, grid, 0.9, seed=0)
    yield "random_mask_index", lambda: vk.random_mask_index(sample, tokens, 0.9, seed=0)
    for of, shape in (("frame", (2, grid[0], -1)), ("clip", (2, 1, -1))):
        weights = torch.ones(2, tokens, dtype=torch.bfloat16).view(shape)
        keep = weights.shape[2] // 5
        yield f"weighted_mask_index per {of}", lambda w=weights, k=keep: vk.weighted_mask_index(w, k, sample, seed=0)
    yield "mask_to_index", lambda: vk.mask_to_index(mask, visible.shape[1])
    yield "running_cell_select", lambda: vk.running_cell_select(visible, sample, grid, 0.5)

    shape = (2, 16, grid[1] * patch[1], grid[2] * patch[2], 3)
    uint8 = torch.zeros(shape, dtype=torch.uint8)
    for dtype in (torch.float32, torch.bfloat16):
        of = f"{dtype}".removeprefix("torch.")

        def zeros(*size: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, requires_grad=True)

        clip = zeros(2, 3, *shape[1:4])
        yield f"tube_mask_gather {of} BCTHW", lambda c=clip: backward(vk.tube_mask_gather(c, visible, patch))
        yield (
            f"tube_mask_gather uint8 BTHWC to {of}",
            lambda d=dtype: vk.tube_mask_gather(uint8, visible, patch, layout="BTHWC", normalize=STATS, dtype=d),
        )
        x = zeros(2, tokens, width)
        yield f"gather_tokens {of}", lambda x=x: vk.gather_tokens(x, visible)
        table = zeros(tokens, width)
        yield f"gather_tokens {of} expanded", lambda t=table: vk.gather_tokens(t.expand(2, -1, -1), visible)
        kept, filling = zeros(2, visible.shape[1], width), zeros(width)
        yield f"masked_token_scatter {of}", lambda k=kept: vk.masked_token_scatter(k, visible, tokens)
        yield (
            f"masked_token_scatter {of} filled",
            lambda k=kept, f=filling: vk.masked_token_scatter(k, visible, tokens, f),
        )
        latent = zeros(2, visible.shape[1], decoder_width)
        mask_token, position = torch.zeros(decoder_width), torch.zeros(tokens, decoder_width)
        yield (
            f"assemble_decoder_tokens {of}",
            lambda t=latent, m=mask_token, p=position: vk.assemble_decoder_tokens(t, m, p, visible, decode),
        )
        pred = zeros(2, decode.shape[1], 3 * patch[0] * patch[1] * patch[2])
        yield (
            f"masked_patch_loss {of} uint8 BTHWC",
            lambda p=pred: backward(vk.masked_patch_loss(p, uint8, decode, patch, layout="BTHWC")),
        )
        yield (
            f"masked_patch_loss {of} {of} BCTHW",
            lambda p=pred, c=clip: backward(vk.masked_patch_loss(p, c, decode, patch, denormalize=STATS)),
        )
        yield f"changed_token_index {of} BCTHW", lambda c=clip: vk.changed_token_index(c, tokens // 2, patch)
    yield "changed_token_index uint8 BTHWC", lambda: vk.changed_token_index(uint8, tokens // 2, patch, layout="BTHWC")
    yield from layer_cases(model)
    for resize, side in CROPS:
        source = torch.zeros(16, side, side, 3, dtype=torch.uint8)
        cropped = vk.crop_clips([source], [0, 0], [(0, 0, side, side)] * 2, [True] * 2, shape[2:4], resize)
        of = f"{resize} crops, {cropped.weights.shape[1]} taps"
        yield f"tube_mask_gather {of}", lambda c=cropped: vk.tube_mask_gather(c, visible, patch, normalize=STATS)
        yield f"changed_token_index {of}", lambda c=cropped: vk.changed_token_index(c, tokens // 2, patch)
        yield f"patch_targets {of}", lambda c=cropped: vk.patch_targets(c, decode, patch)
        yield (
            f"masked_patch_loss bfloat16 {of}",
            lambda p=pred, c=cropped: backward(vk.masked_patch_loss(p, c, decode, patch)),
        )
    whole = vk.crop_clips(
        [torch.zeros(16, 256, 340, 3, dtype=torch.uint8)], [0], [(0, 0, 256, 340)], [False], shape[2:4]
    )
    yield "warp_clips", lambda: vk.warp_clips(whole, torch.zeros(1, 2, 3))
    yield "patch_targets uint8 BTHWC", lambda: vk.patch_targets(uint8, decode, patch, layout="BTHWC")


def layer_cases(model: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Norms and activations: the encoder's rows, and the decoder's, whose residual stream is float32 under autocast.

    Losses against rows of a teacher.
    """
    (width, decoder_width, *_), (hidden, decoder_hidden) = MODELS[model], HIDDEN[model]
    half, single = torch.bfloat16, torch.float32

    def zeros(*size: int, dtype: torch.dtype = single) -> Tensor:
        return torch.zeros(size, dtype=dtype, requires_grad=True)

    def add_layer_norm(size: int, stream: torch.dtype, dtype: torch.dtype) -> None:
        rows, branch = zeros(2, 40, size, dtype=stream), zeros(2, 40, size, dtype=dtype)
        backward(*vk.add_layer_norm(rows, branch, zeros(size), zeros(size), 1e-6, dtype))

    def add_rms_norm(size: int, stream: torch.dtype, dtype: torch.dtype, scale: Tensor | None = None) -> None:
        rows, branch = zeros(2, 40, size, dtype=stream), zeros(2, 40, size, dtype=dtype)
        backward(*vk.add_rms_norm(rows, branch, zeros(size), 1e-6, dtype, scale))

    def add_drawn_norm(size: int, dtype: torch.dtype, *bias: Tensor, scale: Tensor | None = None) -> None:
        rows, branch, place = zeros(4, 20, size, dtype=dtype), zeros(3, 20, size, dtype=dtype), torch.arange(4)
        draws = dict(ran=place, runs=place, count=3)
        total, _, y = vk.add_drawn_norm(rows, branch, zeros(size), *bias, scale=scale, factor=1.3, **draws)  # type: ignore[arg-type]
        backward(total, y)

    def bias_gelu(size: int, dtype: torch.dtype) -> None:
        backward(vk.bias_gelu(zeros(2, 40, size, dtype=dtype), zeros(size)))

    def alignment_loss(size: int, dtype: torch.dtype) -> None:
        x, target = zeros(2, 40, size, dtype=dtype), torch.zeros(2, 40, size, dtype=half)
        backward(vk.alignment_loss(x, target, zeros(size), zeros(size)))

    x = zeros(2, 40, width, dtype=half)
    yield "layer_norm bfloat16", lambda: backward(vk.layer_norm(x, zeros(width), zeros(width)))
    yield "add_layer_norm bfloat16", lambda: add_layer_norm(width, half, half)
    yield "add_layer_norm float32", lambda: add_layer_norm(width, single, single)
    yield "add_layer_norm bfloat16 decoder", lambda: add_layer_norm(decoder_width, half, half)
    yield "add_layer_norm float32 to bfloat16 decoder", lambda: add_layer_norm(decoder_width, single, half)
    yield "rms_norm bfloat16", lambda: backward(vk.rms_norm(x, zeros(width)))
    yield "add_rms_norm bfloat16", lambda: add_rms_norm(width, half, half)
    yield "add_rms_norm bfloat16 scaled", lambda: add_rms_norm(width, half, half, zeros(width))
    yield "add_rms_norm float32 scaled", lambda: add_rms_norm(width, single, single, zeros(width))
    yield "add_rms_norm float32 to bfloat16 scaled", lambda: add_rms_norm(width, single, half, zeros(width))
    yield "add_drawn_norm bfloat16 with bias", lambda: add_drawn_norm(width, half, zeros(width))
    yield "add_drawn_norm float32 with bias", lambda: add_drawn_norm(width, single, zeros(width))
    yield "add_drawn_norm bfloat16 scaled", lambda: add_drawn_norm(width, half, scale=zeros(width))
    yield "add_drawn_norm float32 scaled", lambda: add_drawn_norm(width, single, scale=zeros(width))
    if model == "ViT-g":  # rows of InternVideo2-6B, of 25 heads of 128
        yield "add_rms_norm bfloat16 scaled, 3,200 wide", lambda: add_rms_norm(3200, half, half, zeros(3200))
        yield "add_rms_norm float32 scaled, 3,200 wide", lambda: add_rms_norm(3200, single, single, zeros(3200))
        yield "add_drawn_norm bfloat16 scaled, 3,200 wide", lambda: add_drawn_norm(3200, half, scale=zeros(3200))
        yield "add_drawn_norm float32 scaled, 3,200 wide", lambda: add_drawn_norm(3200, single, scale=zeros(3200))
    yield "bias_gelu bfloat16", lambda: bias_gelu(hidden, half)
    yield "bias_gelu float32", lambda: bias_gelu(hidden, single)
    yield "bias_gelu bfloat16 decoder", lambda: bias_gelu(decoder_hidden, half)
    for size in TEACHERS[model]:
        yield f"alignment_loss bfloat16 {size} wide", lambda s=size: alignment_loss(s, half)
        yield f"alignment_loss float32 {size} wide", lambda s=size: alignment_loss(s, single)


def long_clips() -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, call) of masks of more tokens than any of the models has."""
    sample = torch.arange(2)
    for frames in LONG_CLIPS:
        grid, n = (frames, 16, 16), frames * 256
        visible, mask = torch.arange(n).expand(2, -1)[:, ::10], torch.zeros(2, n, dtype=torch.bool)
        yield f"N = {n} random_mask_index", lambda n=n: vk.random_mask_index(sample, n, 0.9, seed=0)
        weights = torch.ones(2, 1, n)
        yield (
            f"N = {n} weighted_mask_index",
            lambda n=n, w=weights: vk.weighted_mask_index(w, n // 5, sample, seed=0),
        )
        yield f"N = {n} mask_to_index", lambda n=n, m=mask: vk.mask_to_index(m, n // 10)
        clip = torch.zeros(2, 1, frames, 16, 16, dtype=torch.uint8)
        yield f"N = {n} changed_token_index", lambda c=clip, n=n: vk.changed_token_index(c, n // 2, (1, 1, 1))
        yield f"N = {n} running_cell_select", lambda v=visible, g=grid: vk.running_cell_select(v, sample, g, 0.5)


def pairs() -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, call) of the loss of 256 pairs: what is launched between matrix products has neither width nor dtype."""
    ids = {"x_ids": torch.arange(256) // 2, "y_ids": torch.arange(256) // 3}

    def contrastive_loss(kind: str, count: int) -> None:
        x, y, scale, bias = (torch.zeros(size, requires_grad=True) for size in ((256, 64), (256, 64), (), ()))
        given = dict(list(ids.items())[:count])
        backward(vk.contrastive_loss(x, y, scale, None if kind == "clip" else bias, kind, **given))

    for kind in ("clip", "siglip"):
        for count in range(3):
            yield f"contrastive_loss {kind}, ids of {count} sides", lambda k=kind, c=count: contrastive_loss(k, c)


def backward(*outputs: Tensor) -> None:
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])


def full_name(function: Callable[..., Any]) -> str:
    """Such as "tokens.triton.rows._copy_rows_kernel"."""
    return f"{function.__module__.removeprefix(f'{vk.__name__}.')}.{function.__name__}"


def entry_kernels() -> list[str]:
    """The package's @triton.jit functions that no other of them calls."""
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(vk.__path__, f"{vk.__name__}.")]
    found = {f.fn for m in modules for f in vars(m).values() if isinstance(f, JITFunction)}
    ours = {f: inspect.getsource(f) for f in found if f.__module__.startswith(f"{vk.__name__}.")}
    called = {f for f in ours for g in ours if f != g and re.search(rf"\b{f.__name__}\(", ours[g])}
    return sorted(full_name(f) for f in ours.keys() - called)


def compile_all(name: str, models: Sequence[str]) -> dict[str, Any]:
    """{"entries": all kernels of the package, "compiled": records} for the target `name`."""
    target, records, seen = TARGETS[name], [], set()
    now = ""

    def record(kernel_name: str, kernel: Any) -> None:
        if (now, kernel.hash) not in seen:
            seen.add((now, kernel.hash))
            records.append({"kernel": kernel_name, "case": now, "target": name} | resources(kernel, target))

    compile_instead_of_launch(target, record)
    for model in models:
        for case, call in cases(model):
            now = f"{model} {case}"
            call()
    for case, call in (*long_clips(), *pairs()):
        now = case
        call()
    return {"triton": triton.__version__, "entries": entry_kernels(), "compiled": records}


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("TRITON_INTERPRET=1 replaces the compiler: unset it to compile kernels")
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in TARGETS or not set(sys.argv[2:]) <= MODELS.keys():
        sys.exit(f"usage: python {sys.argv[0]} {{{','.join(TARGETS)}}} [{{{','.join(MODELS)}}}]")
    print(json.dumps(compile_all(sys.argv[1], sys.argv[2:] or [*MODELS]), indent=1))
