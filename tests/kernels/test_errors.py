"""Every bad argument is refused by an error that names it: (argument, bad value) -> error type and words."""

import os

import pytest
import torch

import videomae_kernels as vk
from tests.kernels.cases import GRID, KEPT, MEAN_STD, PATCH, PIXELS, TOKENS, WIDTH
from videomae_kernels.testing import make_clip, make_index


def good(name):
    """(function, valid arguments) of every op; a test replaces one argument."""
    index = make_index(2, KEPT, TOKENS)
    clip = make_clip(GRID, PATCH)
    tokens, row, table = torch.randn(2, KEPT, WIDTH), torch.randn(WIDTH), torch.randn(TOKENS, WIDTH)
    weight = torch.randn(WIDTH, 3, *PATCH)
    pixel = {"clip": clip, "index": index, "patch": PATCH, "layout": "BCTHW"}
    arguments = {
        "tube_mask_index": {"sample": torch.arange(2), "grid": GRID, "ratio": 0.5, "seed": 0},
        "random_mask_index": {"sample": torch.arange(2), "num_tokens": TOKENS, "ratio": 0.5, "seed": 0},
        "weighted_mask_index": {
            "weights": torch.arange(TOKENS).view(1, *GRID[:1], -1).repeat(2, 1, 1) / TOKENS,
            "keep": KEPT,
            "sample": torch.arange(2),
            "seed": 0,
        },
        "mask_to_index": {"mask": torch.eye(4, dtype=torch.bool), "count": 1},
        "changed_token_index": {"clip": clip, "count": TOKENS // 2, "patch": PATCH, "layout": "BCTHW"},
        "running_cell_select": {"visible": index, "phase": torch.arange(2), "grid": GRID, "ratio": 0.5},
        "gather_tokens": {"x": torch.randn(2, TOKENS, WIDTH), "index": index},
        "masked_token_scatter": {"tokens": tokens, "index": index, "num_tokens": TOKENS, "mask_token": row},
        "assemble_decoder_tokens": {
            "tokens": tokens,
            "mask_token": row,
            "position": table,
            "visible": index,
            "decoded": make_index(2, 9, TOKENS),
        },
        "layer_norm": {"x": tokens, "weight": row, "bias": row, "eps": 1e-6, "dtype": None},
        "add_layer_norm": {"x": tokens, "branch": tokens, "weight": row, "bias": row, "eps": 1e-6, "dtype": None},
        "rms_norm": {"x": tokens, "weight": row, "eps": 1e-6, "dtype": None},
        "add_rms_norm": {
            **{"x": tokens, "branch": tokens, "weight": row, "eps": 1e-6, "dtype": None},
            "scale": row,
        },
        "add_drawn_norm": {
            **{"x": tokens, "branch": tokens[:1], "weight": row, "bias": row, "eps": 1e-6, "dtype": None},
            **{"scale": row, "factor": 1.25, "ran": torch.tensor([1, 0]), "runs": torch.tensor([1, 0]), "count": 1},
        },
        "bias_gelu": {"x": tokens, "bias": row},
        "alignment_loss": {"x": tokens, "target": tokens.flip(0), "weight": row, "bias": row, "eps": 1e-6},
        "contrastive_loss": {
            "x": table,
            "y": table.flip(0),
            "scale": torch.tensor(3.0),
            "bias": torch.tensor(-2.0),
            "kind": "siglip",
            "x_ids": torch.arange(TOKENS) // 2,
            "y_ids": torch.arange(TOKENS) // 3,
            "group": None,
        },
        "tube_mask_gather": {**pixel, "normalize": MEAN_STD, "dtype": None},
        "embed_tokens": {
            "clip": clip,
            "index": index,
            "weight": weight,
            "bias": row,
            "position": table,
            "layout": "BCTHW",
            "normalize": None,
        },
        "patch_targets": {**pixel, "denormalize": None},
        "masked_patch_loss": {"pred": torch.randn(2, KEPT, PIXELS), **pixel, "weight": None, "denormalize": None},
    }
    if name == "warp_clips":  # made only then: `crop_clips` computes with the values of tables
        boxes = [(0, 0, *clip.shape[3:])] * 2
        arguments["warp_clips"] = {
            "clips": vk.crop_clips(list(clip.movedim(1, 4)), [0, 1], boxes, [False, True], clip.shape[3:]),
            "matrix": torch.tensor([[-1.0, 0.5, 20.25], [0.125, 0.75, 1.5]]).repeat(2, 1, 1),
            "fill": 93,
        }
    return getattr(vk, name), arguments[name]


def on_meta(x):
    return x.to("meta")


def one_sample(x):
    return x[:1]


def empty(x):
    return x[:, :0]


INDEX_OPS = {
    "gather_tokens": "index",
    "masked_token_scatter": "index",
    "tube_mask_gather": "index",
    "embed_tokens": "index",
    "patch_targets": "index",
    "masked_patch_loss": "index",
    "running_cell_select": "visible",
    "assemble_decoder_tokens": "decoded",
}
FIRST = GRID[1] * GRID[2]  # tokens of the first frames
PIXEL_OPS = ("tube_mask_gather", "patch_targets", "masked_patch_loss")
WEIGHTED = "weighted_mask_index"
CHANGED = "changed_token_index"
CLIP_OPS = (*PIXEL_OPS, "embed_tokens")
BIASED_NORMS = ("layer_norm", "add_layer_norm", "add_drawn_norm")
NORM_OPS = (*BIASED_NORMS, "rms_norm", "add_rms_norm")
ADDING = ("add_layer_norm", "add_rms_norm", "add_drawn_norm")
SCALING = ADDING[1:]
AFFINE_OPS = (*BIASED_NORMS, "alignment_loss")
BIASED_OPS = (*AFFINE_OPS, "bias_gelu")
ROW_OPS = (*NORM_OPS, "alignment_loss", "bias_gelu")
CONTRAST = ("x", "y", "scale", "bias", "x_ids", "y_ids")  # the tensors of contrastive_loss
TWO_STATS = (MEAN_STD[0][:2], MEAN_STD[1][:2])
ZERO_STD = (MEAN_STD[0], (1.0, 0.0, 1.0))

BAD = [  # op, argument, how to spoil it, error, words
    *((op, name, lambda x: x.float(), TypeError, "must be int32 or int64") for op, name in INDEX_OPS.items()),
    *((op, name, lambda x: x[0], ValueError, "must have shape") for op, name in INDEX_OPS.items()),
    *((op, name, empty, ValueError, "empty") for op, name in INDEX_OPS.items()),
    *((op, name, on_meta, ValueError, "must be on cpu") for op, name in INDEX_OPS.items() if name != "visible"),
    *((op, name, one_sample, ValueError, "must have shape") for op, name in INDEX_OPS.items() if name != "visible"),
    *((op, "clip", lambda x: x[..., :-1], ValueError, "patch") for op in (*CLIP_OPS, CHANGED)),
    *((op, "clip", lambda x: x[0], ValueError, r"shape \(B, C, T, H, W\)") for op in (*CLIP_OPS, CHANGED)),
    *((op, "clip", lambda x: x.int(), TypeError, "uint8 or floating") for op in (*CLIP_OPS, CHANGED)),
    *((op, "layout", lambda _: "BCHW", ValueError, "permutation") for op in (*CLIP_OPS, CHANGED)),
    *((op, "patch", lambda _: (2, 4), ValueError, "three positive") for op in (*PIXEL_OPS, CHANGED)),
    *((op, "patch", lambda _: (2, 0, 4), ValueError, "three positive") for op in (*PIXEL_OPS, CHANGED)),
    *((op, "patch", lambda _: (3, 4, 4), ValueError, "T=8") for op in (*PIXEL_OPS, CHANGED)),
    *((op, "normalize", lambda _: TWO_STATS, ValueError, "3 channels") for op in ("tube_mask_gather", "embed_tokens")),
    ("tube_mask_gather", "normalize", lambda _: ZERO_STD, ValueError, "positive"),
    ("tube_mask_gather", "dtype", lambda _: torch.uint8, TypeError, "floating"),
    ("patch_targets", "denormalize", lambda _: MEAN_STD, ValueError, "uint8"),
    *(
        (op, "grid", lambda _: (2, 3), ValueError, "three positive")
        for op in ("tube_mask_index", "running_cell_select")
    ),
    *(
        (op, "grid", lambda _: (2, 0, 3), ValueError, "three positive")
        for op in ("tube_mask_index", "running_cell_select")
    ),
    *(
        (op, "ratio", lambda _: 1.0, ValueError, "1")
        for op in ("tube_mask_index", "random_mask_index", "running_cell_select")
    ),
    *((op, "ratio", lambda _: -0.1, ValueError, "-0.1") for op in ("tube_mask_index", "random_mask_index")),
    ("running_cell_select", "ratio", lambda _: 0.2, ValueError, "0.2"),
    *((op, "sample", lambda x: x.int(), TypeError, "int64") for op in ("tube_mask_index", "random_mask_index")),
    *(
        (op, "sample", lambda x: x[None], ValueError, r"shape \(B,\)")
        for op in ("tube_mask_index", "random_mask_index")
    ),
    *((op, "seed", lambda _: -1, ValueError, "-1") for op in ("tube_mask_index", "random_mask_index")),
    (WEIGHTED, "weights", lambda x: x.int(), TypeError, "floating"),
    (WEIGHTED, "weights", lambda x: x[0], ValueError, r"shape \(B, G, P\)"),
    (WEIGHTED, "weights", lambda x: x[:, :0], ValueError, "1 to 2"),
    (WEIGHTED, "weights", lambda x: x.new_ones(()).expand(2, 2**15, 2**15), ValueError, "1 to 2"),
    (WEIGHTED, "weights", lambda x: x - 0.5, ValueError, "finite and at least 0 .* from -0.5 to"),
    (WEIGHTED, "weights", lambda x: x.where(x != x[1, 2, 3], torch.nan), ValueError, "finite .* from nan"),
    (WEIGHTED, "weights", lambda x: x / x, ValueError, "finite .* from nan"),
    (WEIGHTED, "weights", lambda x: x.double() * 1e39, ValueError, "finite and at least 0 in float32.* to inf"),
    (WEIGHTED, "keep", lambda _: 0, ValueError, rf"keep must be an integer in \[1, {FIRST}\]"),
    (WEIGHTED, "keep", lambda _: FIRST + 1, ValueError, rf"keep must be an integer in \[1, {FIRST}\]"),
    (WEIGHTED, "keep", lambda _: 2.0, TypeError, "an integer"),
    (
        WEIGHTED,
        "keep",
        lambda _: FIRST,
        ValueError,
        rf"larger than what has weight: {FIRST} .* {FIRST - 1} of .* group 0",
    ),
    (WEIGHTED, "sample", lambda x: x.int(), TypeError, "int64"),
    (WEIGHTED, "sample", one_sample, ValueError, r"shape \(2,\)"),
    (WEIGHTED, "sample", on_meta, ValueError, "must be on cpu"),
    (WEIGHTED, "seed", lambda _: -1, ValueError, "-1"),
    ("random_mask_index", "num_tokens", lambda _: 0, ValueError, r"in \[1, 2\*\*31\)"),
    ("mask_to_index", "mask", lambda x: x.int(), TypeError, "boolean"),
    ("mask_to_index", "mask", lambda x: x[0], ValueError, r"shape \(B, N\)"),
    ("mask_to_index", "count", lambda _: 0, ValueError, r"count must be an integer in \[1, 4\]"),
    ("mask_to_index", "count", lambda _: 5, ValueError, r"count must be an integer in \[1, 4\]"),
    (
        CHANGED,
        "count",
        lambda _: FIRST - 1,
        ValueError,
        rf"count must be an integer in \[{FIRST}, {TOKENS}\], got {FIRST - 1}",
    ),
    (CHANGED, "count", lambda _: TOKENS + 1, ValueError, rf"count must be an integer in \[{FIRST}, {TOKENS}\]"),
    (CHANGED, "count", lambda _: 48.0, TypeError, "count must be an integer"),
    (CHANGED, "clip", lambda x: x.tolist(), TypeError, "a tensor or CroppedClips"),
    (CHANGED, "clip", lambda x: x[:, :0], ValueError, "at least one channel"),
    ("running_cell_select", "phase", lambda x: x.float(), TypeError, "int32 or int64"),
    ("running_cell_select", "phase", one_sample, ValueError, "shape"),
    ("running_cell_select", "phase", on_meta, ValueError, "must be on cpu"),
    ("gather_tokens", "x", lambda x: x[0], ValueError, r"\(B, N, D\)"),
    ("gather_tokens", "index", lambda _: torch.zeros(2, TOKENS + 1).long(), ValueError, "there are only"),
    ("masked_token_scatter", "tokens", lambda x: x[0], ValueError, r"\(B, K, D\)"),
    ("masked_token_scatter", "index", lambda x: x[:, 1:], ValueError, "must have shape"),
    ("masked_token_scatter", "mask_token", lambda x: x[1:], ValueError, "must have shape"),
    ("masked_token_scatter", "mask_token", lambda x: x.half(), TypeError, "dtype of tokens"),
    ("masked_token_scatter", "mask_token", on_meta, ValueError, "must be on cpu"),
    ("assemble_decoder_tokens", "tokens", lambda x: x[0], ValueError, r"\(B, V, d\)"),
    ("assemble_decoder_tokens", "tokens", lambda x: x.int(), TypeError, "floating"),
    ("assemble_decoder_tokens", "mask_token", lambda x: x[1:], ValueError, "must have shape"),
    ("assemble_decoder_tokens", "position", lambda x: x[:, 1:], ValueError, "must have shape"),
    ("assemble_decoder_tokens", "position", on_meta, ValueError, "must be on cpu"),
    ("assemble_decoder_tokens", "visible", lambda x: x[:, 1:], ValueError, "must have shape"),
    *((op, "x", lambda x: x.int(), TypeError, "floating") for op in ROW_OPS),
    *((op, "x", lambda x: x.to_sparse(), TypeError, "dense") for op in ROW_OPS),
    *((op, "bias", lambda x: x[1:], ValueError, r"shape \(5,\)") for op in BIASED_OPS),
    *((op, "bias", on_meta, ValueError, "must be on cpu") for op in BIASED_OPS),
    *((op, "weight", lambda x: x[None], ValueError, r"shape \(5,\)") for op in (*NORM_OPS, "alignment_loss")),
    *((op, "weight", on_meta, ValueError, "must be on cpu") for op in NORM_OPS),
    *((op, "bias", lambda x: x.half(), TypeError, "dtype of weight") for op in AFFINE_OPS),
    *((op, "eps", lambda _: -1e-6, ValueError, "at least 0") for op in (*NORM_OPS, "alignment_loss")),
    *((op, "eps", lambda _: None, TypeError, "a number") for op in (*NORM_OPS, "alignment_loss")),
    *((op, "dtype", lambda _: torch.int32, TypeError, "floating") for op in NORM_OPS),
    *((op, "branch", lambda x: x[:, 1:], ValueError, "must have shape") for op in ADDING),
    *((op, "branch", lambda x: x.int(), TypeError, "floating") for op in ADDING),
    *((op, "branch", on_meta, ValueError, "must be on cpu") for op in ADDING),
    *((op, "scale", lambda x: x[1:], ValueError, r"shape \(5,\)") for op in SCALING),
    *((op, "scale", lambda x: x.int(), TypeError, "floating") for op in SCALING),
    *((op, "scale", on_meta, ValueError, "must be on cpu") for op in SCALING),
    ("add_drawn_norm", "x", lambda x: x[0], ValueError, r"shape \(B, N, D\)"),
    ("add_drawn_norm", "branch", lambda x: x.repeat(3, 1, 1), ValueError, "at most the 2 samples of x, got 3"),
    ("add_drawn_norm", "factor", lambda _: None, TypeError, "a number"),
    ("add_drawn_norm", "factor", lambda _: float("inf"), ValueError, "finite"),
    ("add_drawn_norm", "count", lambda _: 3, ValueError, r"in \[0, 2\], got 3"),
    ("add_drawn_norm", "count", lambda _: 0.5, TypeError, "an integer"),
    ("add_drawn_norm", "count", lambda _: None, ValueError, "come with runs, got count None and runs"),
    *(("add_drawn_norm", name, lambda x: x.int(), TypeError, "int64") for name in ("ran", "runs")),
    *(("add_drawn_norm", name, lambda x: x[1:], ValueError, r"shape \(2,\)") for name in ("ran", "runs")),
    *(("add_drawn_norm", name, on_meta, ValueError, "must be on cpu") for name in ("ran", "runs")),
    *(("add_drawn_norm", name, lambda x: x + 1, ValueError, r"lie in \[0, 2\)") for name in ("ran", "runs")),
    *(("add_drawn_norm", name, lambda x: x * 0, ValueError, r"in \[0, 2\) once") for name in ("ran", "runs")),
    ("alignment_loss", "target", lambda x: x[:, 1:], ValueError, "must have shape"),
    ("alignment_loss", "target", lambda x: x[:1], ValueError, "must have shape"),  # a mean's rows are not broadcast
    ("alignment_loss", "target", lambda x: x.int(), TypeError, "floating"),
    ("alignment_loss", "target", on_meta, ValueError, "must be on cpu"),
    *(("contrastive_loss", name, lambda x: x.int(), TypeError, "floating") for name in ("x", "y", "scale", "bias")),
    *(("contrastive_loss", name, lambda x: x[None], ValueError, "must have shape") for name in CONTRAST),
    *(("contrastive_loss", name, on_meta, ValueError, "must be on cpu") for name in CONTRAST[1:]),
    *(("contrastive_loss", name, lambda x: x[1:], ValueError, "must have shape") for name in ("y", "x_ids", "y_ids")),
    *(("contrastive_loss", name, lambda x: x.int(), TypeError, "must be int64") for name in ("x_ids", "y_ids")),
    ("contrastive_loss", "y", lambda x: x[:, 1:], ValueError, "must have shape"),
    ("contrastive_loss", "scale", lambda _: 3.0, TypeError, "must be a tensor"),
    ("contrastive_loss", "bias", lambda _: -2.0, TypeError, "must be a tensor"),
    ("contrastive_loss", "kind", lambda _: "nce", ValueError, "one of"),
    ("contrastive_loss", "kind", lambda _: None, TypeError, "one of"),
    ("contrastive_loss", "group", lambda _: 0, TypeError, "process group"),
    ("embed_tokens", "weight", lambda x: x[0], ValueError, r"\(D, C,"),
    ("embed_tokens", "weight", lambda x: x.int(), TypeError, "floating"),
    ("embed_tokens", "weight", lambda x: x[:, :2], ValueError, "channels"),
    *(("embed_tokens", name, on_meta, ValueError, "must be on cpu") for name in ("weight", "bias", "position")),
    ("embed_tokens", "bias", lambda x: x[1:], ValueError, "must have shape"),
    ("embed_tokens", "position", lambda x: x[1:], ValueError, "must have shape"),
    ("masked_patch_loss", "pred", lambda x: x[..., 1:], ValueError, "must have shape"),
    ("masked_patch_loss", "pred", lambda x: x[:, 1:], ValueError, "must have shape"),
    ("masked_patch_loss", "pred", lambda x: x.int(), TypeError, "floating"),
    ("masked_patch_loss", "pred", on_meta, ValueError, "must be on cpu"),
    ("masked_patch_loss", "weight", lambda _: torch.ones(2, KEPT + 1), ValueError, "must have shape"),
]


@pytest.mark.parametrize(
    ("op", "argument", "spoil", "error", "words"), BAD, ids=[f"{op}-{name}-{i}" for i, (op, name, *_) in enumerate(BAD)]
)
def test_a_bad_argument_is_named(op, argument, spoil, error, words):
    function, arguments = good(op)
    function(**arguments)
    arguments[argument] = spoil(arguments[argument])
    with pytest.raises(error, match=words) as raised:
        function(**arguments)
    assert argument in str(raised.value)


def test_other_devices_are_refused_by_name():
    with pytest.raises(NotImplementedError, match="CPU and CUDA"):
        vk._custom_op.runs_triton(torch.device("xpu"))


def test_float64_is_refused_by_the_kernels(monkeypatch):
    """They compute in float32; losing the precision silently would be worse."""
    if torch.cuda.is_available():
        pytest.skip("covered by the interpreter")
    pytest.importorskip("triton")
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "1")
    for op, name in (
        ("tube_mask_gather", "clip"),
        ("changed_token_index", "clip"),
        ("masked_patch_loss", "pred"),
        ("assemble_decoder_tokens", "tokens"),
        ("layer_norm", "x"),
        ("add_layer_norm", "branch"),
        ("rms_norm", "x"),
        ("add_rms_norm", "branch"),
        ("add_rms_norm", "scale"),
        ("add_drawn_norm", "branch"),
        ("bias_gelu", "x"),
        ("alignment_loss", "target"),
        ("contrastive_loss", "y"),
        ("contrastive_loss", "scale"),
    ):
        function, arguments = good(op)
        arguments[name] = arguments[name].double()
        with pytest.raises(TypeError, match=f"{name} is float64"):
            function(**arguments)
