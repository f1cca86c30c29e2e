"""Every Triton kernel compiles for every target as kernels.md says, with wide memory accesses. Needs no GPU."""

import functools
from typing import Any

import pytest

from tests.aot import table

pytest.importorskip("triton")

targets = pytest.mark.parametrize(
    "target",
    ["sm_90", *(pytest.param(target, marks=pytest.mark.slow) for target in ("sm_80", "sm_100", "gfx942"))],
)


@functools.cache
def compiled(target: str) -> dict[str, Any]:
    return table.compile_target(target)


@targets
def test_every_kernel_is_compiled(target: str) -> None:
    report = compiled(target)
    assert report["entries"] == sorted({r["kernel"] for r in report["compiled"]})


@targets
def test_resources_are_those_of_the_table(target: str) -> None:
    report = compiled(target)
    found = table.difference(table.FILE.read_text(encoding="utf-8"), report["triton"], table.rows(report))
    assert not found, f"\n{found}\n\nIf this is an improvement, or a new kernel: {table.REWRITE}"


@targets
def test_nothing_spills_and_shared_memory_suffices(target: str) -> None:
    limit = table.SHARED_LIMITS[target]
    assert [row for row in table.rows(compiled(target)) if row.spills or row.shared > limit] == []


ROWS = "tokens.triton.rows._copy_rows_kernel"
GATHER = "pixels.triton.clip._tube_mask_gather_kernel"
PATCH = "pixels.triton.clip._patch_kernel"


@targets
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        (ROWS, "ViT-B gather_tokens {}"),
        (ROWS, "ViT-B masked_token_scatter {}"),
        (GATHER, "ViT-B tube_mask_gather {} BCTHW"),
        (PATCH, "ViT-B masked_patch_loss {} uint8 BTHWC"),
        (PATCH, "ViT-B masked_patch_loss {} {} BCTHW"),
        (PATCH, "ViT-g masked_patch_loss {} uint8 BTHWC"),
        (PATCH, "ViT-g masked_patch_loss {} {} BCTHW"),
    ],
)
def test_rows_move_in_accesses_of_128_bits(target: str, kernel: str, case: str, dtype: str) -> None:
    """All stores of rows, and their loads; narrower loads fetch pixels, indices and constants.

    Of a tile of 2,048 elements, a row of 1,176 fills five parts of eight: AMD's compiler drops the loads of the rest.
    """
    for r in records(target, kernel, case.format(dtype, dtype)):
        if r["stores"] != {"32": 1}:  # the loss itself, one number a row
            assert set(r["stores"]) == {"128"}, r
        # For AMD the compiler splits wide loads of a row's end, which are masked.
        wide = r["stores"].get("128", 1) * (0.75 if target == "gfx942" else 1)
        assert r["loads"].get("128", 0) >= wide, r


@targets
@pytest.mark.parametrize("model", ["ViT-B", "ViT-g"])
def test_rows_between_matrix_products_move_in_accesses_of_128_bits(target: str, model: str) -> None:
    """Forward and backward; narrower are only a row's two statistics, of each of the rows of a tile.

    On gfx942, whose blocks have more threads, the one load of the bias of a tile can have 64 bits, too.
    """
    for case in ("layer_norm", "add_layer_norm", "rms_norm", "add_rms_norm", "bias_gelu"):
        for r in records(target, "", f"{model} {case}"):
            bias = r["loads"].get("64", 0)
            assert bias <= (target == "gfx942"), r
            assert r["stores"].keys() <= {"128", "32"} and r["loads"].keys() <= {"128", "64", "32"}, r
            assert r["stores"].get("32", 0) <= 2 and r["loads"].get("32", 0) <= 8, r
            assert r["stores"]["128"] >= 2 and r["loads"]["128"] + bias >= 3, r


@targets
@pytest.mark.parametrize("model", ["ViT-B", "ViT-g"])
def test_rows_of_drawn_samples_move_in_accesses_of_128_bits(target: str, model: str) -> None:
    """Narrower are only the two places of each of the rows of a tile, and its statistics; AMD splits one more load."""
    for r in records(target, "", f"{model} add_drawn_norm"):
        assert r["stores"].keys() <= {"128", "32"} and r["loads"].keys() <= {"128", "64", "32"}, r
        assert r["stores"].get("32", 0) <= 2 and r["loads"]["64"] <= 9 and r["loads"].get("32", 0) <= 4, r
        assert r["stores"]["128"] >= 8 and r["loads"]["128"] >= 8, r


@targets
@pytest.mark.parametrize("model", ["ViT-B", "ViT-g"])
def test_rows_compared_with_a_teachers_move_in_accesses_of_128_bits(target: str, model: str) -> None:
    """Narrower are only five numbers of each of the rows of a tile; forward stores nothing else."""
    for r in records(target, "", f"{model} alignment_loss"):
        assert r["stores"].keys() <= {"128", "32"} and r["loads"].keys() <= {"128", "32"}, r
        assert r["stores"].get("32", 0) <= 5 and r["loads"].get("32", 0) <= 20, r
        assert ("128" in r["stores"]) == ("backward" in r["kernel"]) and r["loads"]["128"] >= 12, r


@targets
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_products_of_pairs_move_in_accesses_of_128_bits(target: str, kind: str) -> None:
    """Narrower are only ids and numbers of the rows and columns of a tile; forward stores nothing else."""
    for r in records(target, "", f"contrastive_loss {kind}"):
        assert ("128" in r["stores"]) == ("backward" in r["kernel"]) and r["loads"]["128"] >= 4, r
        assert r["stores"].keys() <= {"128", "32"} and r["stores"]["32"] <= 3, r


@targets
@pytest.mark.parametrize(
    "case", ["ViT-B patch_targets uint8", "ViT-g patch_targets uint8", "ViT-B tube_mask_gather uint8"]
)
def test_rows_made_of_uint8_pixels_are_stored_in_128_bits(target: str, case: str) -> None:
    for r in records(target, "", case):
        assert set(r["stores"]) == {"128"}, r


@targets
@pytest.mark.parametrize(
    ("case", "bits", "other"),
    [
        # A thread loads the pixels of the 16 bytes of its row: 4 or 8 of them, a warp 128 or 256 bytes side by side.
        ("ViT-B masked_patch_loss float32 uint8", "32", "16 8"),
        ("ViT-B masked_patch_loss bfloat16 uint8", "64", "16 8"),
        ("ViT-B patch_targets uint8", "32", "16 8"),
        ("ViT-g masked_patch_loss float32 uint8", "16", "8"),  # a line of 14 pixels begins at any even byte
        ("ViT-g masked_patch_loss bfloat16 uint8", "16", "8"),
    ],
)
def test_pixels_of_channels_last_clips_are_loaded_together(target: str, case: str, bits: str, other: str) -> None:
    for r in records(target, PATCH, case):
        if target != "gfx942":  # where the compiler joins neighbours further
            assert r["loads"].get(bits, 0) >= 8, r
        assert not r["loads"].keys() & set(other.split()), r


def records(target: str, kernel: str, case: str) -> list[dict[str, Any]]:
    found = [r for r in compiled(target)["compiled"] if kernel in r["kernel"] and r["case"].startswith(case)]
    assert found, f"no {kernel} {case} was compiled for {target}"
    return found
