"""The PTX backend must be able to fail: compiled kernels of the ops with one mistake each, and how it is found."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("PTX is interpreted where there is no GPU", allow_module_level=True)
pytest.importorskip("triton")

import videomae_kernels as vk
from tests.kernels.emulation import emulated
from tests.ptx import Trap, launch, run
from tests.ptx.shared import Shared
from videomae_kernels.testing import make_clip, make_index

pytestmark = pytest.mark.ptx
Edit = Callable[[str], str]
targets = pytest.mark.parametrize("target", ["sm_80", pytest.param("sm_90", marks=pytest.mark.slow)])


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """(target, op, edit of the PTX) -> the trap's message, "wrong" (the result is not the reference's), or "right"."""

    def tried(target: str, op: Callable[[], torch.Tensor], edit: Edit) -> str:
        expected, changed = op(), []

        def load(ptx: str) -> Any:
            edited = edit(ptx)
            changed.append(edited != ptx)
            return run.load(edited)

        monkeypatch.setattr(launch, "load", load)
        try:
            with emulated(target):
                found = op()
        except (Trap, RuntimeError) as error:  # the op itself may find that the kernel's counts are wrong
            return str(error)
        finally:
            assert any(changed), "the edit found nothing to change"
        return "right" if torch.allclose(found, expected, rtol=1e-5, atol=1e-6) else "wrong"

    yield tried


def places(pattern: str, op: Callable[[], torch.Tensor], target: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many times the PTX of the op's only kernel has the pattern."""
    texts: list[str] = []
    monkeypatch.setattr(launch, "load", lambda ptx: texts.append(ptx) or run.load(ptx))
    with emulated(target):
        op()
    (text,) = texts
    return len(re.findall(pattern, text))


def at(place: int, pattern: str, replacement: str) -> Edit:
    """Replace the match number `place` of a pattern."""

    def edit(ptx: str) -> str:
        found = list(re.finditer(pattern, ptx))[place]
        return ptx[: found.start()] + found.expand(replacement) + ptx[found.end() :]

    return edit


def everywhere(pattern: str, replacement: str) -> Edit:
    return lambda ptx: re.sub(pattern, replacement, ptx)


torch.manual_seed(0)
INDEX = make_index(2, 5, 24)
ODD, EVEN = torch.randn(2, 24, 30), torch.randn(2, 24, 32)
INSIDE = torch.randn(2, 26, 32)[:, 1:25]  # on both sides of it there is memory that may be read
CLIP, CELLS = make_clip((2, 2, 3), (2, 16, 16), layout="BTHWC"), make_index(2, 4, 12)
FOUR_CHANNELS = torch.randint(0, 256, (2, 4, 32, 48, 4), dtype=torch.uint8)
MASK = torch.zeros(2, 300, dtype=torch.bool).scatter_(1, make_index(2, 33, 300), True)
SAMPLES = torch.arange(2)


def gather_odd() -> torch.Tensor:
    return vk.gather_tokens(ODD, INDEX)


def mask_to_index() -> torch.Tensor:
    return vk.mask_to_index(MASK, 33)


def tube_mask_index() -> torch.Tensor:
    return vk.tube_mask_index(SAMPLES, (2, 14, 14), 0.9, seed=1)


def patch_targets() -> torch.Tensor:
    return vk.patch_targets(CLIP, CELLS, (2, 16, 16), layout="BTHWC")


def gather_reordered() -> torch.Tensor:
    """A row of 2048 elements: what is stored in shared memory is a power of two, of which no part is left out."""
    return vk.tube_mask_gather(FOUR_CHANNELS, CELLS, (2, 16, 16), layout="BTHWC")


def slow(op: Callable[[], torch.Tensor]) -> Any:
    return pytest.param(op, marks=pytest.mark.slow)


def without_each(
    pattern: str,
    op: Callable[[], torch.Tensor],
    target: str,
    outcome: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """The outcome of the op for each match of the pattern in its kernel's PTX, with that match removed."""
    return [outcome(target, op, at(place, pattern, "")) for place in range(places(pattern, op, target, monkeypatch))]


@targets
@pytest.mark.parametrize("op", [gather_odd, mask_to_index, tube_mask_index, patch_targets, gather_reordered])
def test_without_an_edit_the_result_is_right(op, target, outcome):
    assert outcome(target, op, lambda ptx: f"{ptx}\n") == "right"


@targets
@pytest.mark.parametrize("access", ["ld", "st"])
def test_a_removed_guard(access, target, outcome):
    found = outcome(target, gather_odd, everywhere(rf"@%p\d+ ({access}\.global)", r"\1"))
    assert re.search("lanes out of bounds|two lanes write different values", found)


@targets
def test_one_removed_guard(target, outcome, monkeypatch):
    guard = r"@%p\d+ (st\.global)"
    for place in range(places(guard, gather_odd, target, monkeypatch)):
        assert outcome(target, gather_odd, at(place, guard, r"\1")) != "right", place


@targets
@pytest.mark.parametrize(("access", "by"), [("ld", 128), ("ld", -128), ("st", 8)])
def test_a_shifted_address(access, by, target, outcome):
    """The loads stay in the memory that the tensor is a part of: nothing but the result shows it."""
    loads = access == "ld"
    pattern = rf"({access}\.global{'.v[24]' if loads else ''}[^;]*\[ %rd\d+ \+ )0"
    tokens = INSIDE if loads else ODD
    found = outcome(target, lambda: vk.gather_tokens(tokens, INDEX), everywhere(pattern, rf"\g<1>{by}"))
    assert found == "wrong" if loads else "lanes out of bounds" in found


@targets
def test_a_misaligned_vector(target, outcome):
    edit = everywhere(r"(ld\.global\.v4[^;]*\[ %rd\d+ \+ )0", r"\g<1>4")
    assert "misaligned access of 16 bytes" in outcome(target, lambda: vk.gather_tokens(EVEN, INDEX), edit)


@targets
@pytest.mark.parametrize("op", [mask_to_index, slow(tube_mask_index)])
def test_each_missing_barrier(op, target, outcome, monkeypatch):
    """Found where two warps meet, or by what a warp does with the stale value that it read."""
    found = without_each(r"bar\.sync\s+0;", op, target, outcome, monkeypatch)
    assert "right" not in found, found
    assert any("no barrier in between" in message for message in found), found


@pytest.mark.slow
def test_the_random_order_of_warps_shows_missing_barriers_by_itself(monkeypatch):
    """With the check of who meets whom off: all barriers but one, without which no order gives a wrong result."""
    barrier = r"bar\.sync\s+0;"
    mask = torch.zeros(2, 1568, dtype=torch.bool).scatter_(1, make_index(2, 160, 1568), True)

    def op() -> torch.Tensor:
        """In two rounds of the kernel's loop: barriers at its end count, too."""
        return vk.mask_to_index(mask, 160)

    count, expected = places(barrier, op, "sm_80", monkeypatch), op()
    monkeypatch.setattr(Shared, "_meet", lambda *args: None)

    def shown(place: int, orders: int = 6) -> bool:
        monkeypatch.setattr(launch, "load", lambda ptx: run.load(at(place, barrier, "")(ptx)))
        try:
            with emulated("sm_80"):  # each launch has an order of its own
                return not all(torch.equal(op(), expected) for _ in range(orders))
        except (Trap, RuntimeError):
            return True

    assert [shown(place) for place in range(count)].count(False) <= 1


@targets
def test_a_partial_barrier(target, outcome):
    """Threads below 64 pass by one that is inserted, and wait at the next."""
    passed = ".reg .pred %pass; .reg .b32 %me; mov.u32 %me, %tid.x; setp.lt.u32 %pass, %me, 64; @%pass bra $L_pass;"
    edit = at(0, r"(bar\.sync\s+0;)", rf"{passed} bar.sync 0;\n$L_pass:\n\1")
    assert "a barrier is reached by a part of a block" in outcome(target, mask_to_index, edit)


@targets
@pytest.mark.parametrize(
    ("op", "pattern", "replacement"),
    [
        (patch_targets, r"(shfl\.sync\.bfly\.b32[^;]*?), 16, 31", r"\1, 8, 31"),
        (patch_targets, r"(shfl\.sync\.bfly\.b32[^;]*?), 1, 31", r"\1, 2, 31"),
        (mask_to_index, r"(shfl\.sync\.up\.b32[^;]*?), 1, 0", r"\1, 2, 0"),
        (tube_mask_index, r"(shfl\.sync\.up\.b32[^;]*?), 16, 0", r"\1, 15, 0"),
    ],
)
def test_a_changed_shuffle(op, pattern, replacement, target, outcome):
    assert outcome(target, op, everywhere(pattern, replacement)) != "right"


@targets
@pytest.mark.parametrize(
    ("op", "pattern", "replacement"),
    [
        (tube_mask_index, r"mul\.hi\.u32", "mul.lo.u32"),
        (tube_mask_index, r"redux\.sync\.add\.s32", "redux.sync.max.s32"),
        (patch_targets, r"sub\.f32", "add.f32"),
        (patch_targets, r"sqrt\.approx\.ftz\.f32", "rsqrt.approx.ftz.f32"),
        (mask_to_index, r"add\.s32(\s+%r\d+, %r\d+, -1;)", r"sub.s32\1"),
    ],
)
def test_wrong_arithmetic(op, pattern, replacement, target, outcome):
    assert outcome(target, op, everywhere(pattern, replacement)) != "right"


@targets
@pytest.mark.parametrize("op", [mask_to_index, slow(gather_reordered)])
def test_each_missing_store_to_shared_memory(op, target, outcome, monkeypatch):
    store = r"(?:@!?%p\d+ )?(?:st\.shared|stmatrix)[^;]*;"
    found = without_each(store, op, target, outcome, monkeypatch)
    assert "right" not in found, found
    assert any("nobody wrote" in message for message in found), found
