"""Index values and crop boxes are checked wherever an op runs on a CPU, and on a GPU only inside `check_indices()`."""

from dataclasses import replace

import pytest
import torch

import videomae_kernels as vk
from tests.kernels.cases import GRID, PATCH, TOKENS, WIDTH
from tests.kernels.test_errors import CLIP_OPS, INDEX_OPS, good
from videomae_fast.memory.fake_cuda import fake_cuda
from videomae_kernels import _values


def spoiled(index, value):
    bad = index.clone()
    bad[1, 1] = bad[1, 2] if value is None else value
    return bad


BAD_INDICES = pytest.mark.parametrize(
    ("value", "words"),
    [(-1, "must lie in"), (TOKENS, "must lie in"), (-(2**31), "must lie in"), (None, "must not repeat")],
    ids=str,
)


@pytest.mark.parametrize(("op", "argument"), [*INDEX_OPS.items(), ("assemble_decoder_tokens", "visible")])
@BAD_INDICES
def test_bad_index_values_are_errors(op, argument, value, words, backend):
    function, arguments = good(op)
    arguments = {name: x.to(backend.device) if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
    function(**arguments)
    arguments[argument] = spoiled(arguments[argument], value)
    with vk.check_indices(), pytest.raises(ValueError, match=f"{argument} {words}"):
        function(**arguments)
    if backend.device.type == "cpu":
        with pytest.raises(ValueError, match=f"{argument} {words}"):
            function(**arguments)


@pytest.mark.parametrize("argument", ["ran", "runs"])
@pytest.mark.parametrize(
    ("places", "words"), [([0, 2], r"lie in \[0, 2\)"), ([-1, 0], r"lie in \[0, 2\)"), ([1, 1], r"in \[0, 2\) once")]
)
def test_bad_places_of_samples_are_errors(argument, places, words, backend):
    function, arguments = good("add_drawn_norm")
    arguments = {name: x.to(backend.device) if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
    function(**arguments)
    arguments[argument] = torch.tensor(places, device=backend.device)
    with vk.check_indices(), pytest.raises(ValueError, match=f"{argument} must .*{words}"):
        function(**arguments)


@pytest.mark.parametrize("phase", [-1, 4, 2**40])
def test_bad_phases_are_errors(phase, backend):
    function, arguments = good("running_cell_select")
    with vk.check_indices(), pytest.raises(ValueError, match=r"phase must lie in \[0, 4\)"):
        visible = arguments["visible"].to(backend.device)
        phases = torch.tensor([0, phase], device=backend.device)
        function(**{**arguments, "visible": visible, "phase": phases})


def test_equal_phases_are_fine():
    function, arguments = good("running_cell_select")
    function(**{**arguments, "phase": torch.tensor([1, 1])})


def test_visible_tokens_out_of_order_are_an_error_because_the_kernel_searches_them():
    function, arguments = good("running_cell_select")
    with pytest.raises(ValueError, match="visible must be ascending"):
        function(**{**arguments, "visible": arguments["visible"].flip(1)})


def test_a_compiled_graph_checks_what_it_runs():
    function, arguments = good("gather_tokens")
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    compiled(**arguments)
    with pytest.raises(ValueError, match="index must lie in"):
        compiled(arguments["x"], spoiled(arguments["index"], TOKENS))


def test_an_index_that_changed_before_backward_is_an_error():
    x, index = torch.randn(2, TOKENS, WIDTH, requires_grad=True), good("gather_tokens")[1]["index"]
    out = vk.gather_tokens(x, index)
    index.data[0, 0] = TOKENS  # `.data` hides the change from autograd
    with pytest.raises(ValueError, match="index must lie in"):
        out.sum().backward()


@pytest.mark.parametrize("op", CLIP_OPS)
@pytest.mark.parametrize(
    ("field", "place", "value", "words"),
    [
        ("geometry", (1, 0), -1, "clip.geometry"),
        ("geometry", (1, 0), 2**62, "clip.geometry"),
        ("geometry", (1, 1), 10**6, "clip.geometry"),
        ("geometry", (1, 2), 2**62, "clip.geometry"),
        ("geometry", (0, 1), 0, "clip.geometry"),
        ("geometry", (0, 1), 5, "clip.first and clip.weights .* 5 lines"),
        ("geometry", (1, 3), 99, "clip.geometry has clips of .* to 99 taps, but clip.weights [0-9]"),
        ("geometry", (1, 4), 1, "clip.weights has weights beyond the taps of clip.geometry in clip 1"),
        ("first", (0, 0), -1, "clip.first .*line 0 of clip 0"),
        ("first", (1, 17), 1000, "clip.first .*line 17 of clip 1"),
        ("first", (1, 17), 2**31 - 1, "clip.first .*line 17 of clip 1"),
    ],
)
def test_crop_boxes_outside_their_frames_are_errors(op, field, place, value, words):
    function, arguments = good(op)
    arguments["clip"] = crops()
    function(**arguments)
    bad = getattr(arguments["clip"], field).clone()
    bad[place] = value
    arguments["clip"] = replace(arguments["clip"], **{field: bad})
    with pytest.raises(ValueError, match=words):
        function(**arguments)


def crops():
    source = torch.randint(0, 256, (GRID[0] * PATCH[0], 19, 27, 3), dtype=torch.uint8)
    return vk.crop_clips([source], [0, 0], [(1, 2, 17, 23), (0, 0, 19, 27)], [False, True], (16, 24), "antialias")


def test_the_context_ends():
    with pytest.raises(KeyError), vk.check_indices():
        raise KeyError
    assert not _values.checks_values(torch.device("cuda"))
    assert _values.checks_values(torch.device("cpu"))


def test_nothing_is_read_while_memory_is_predicted():
    """Fake tensors have no values: reading one would be an error here, and a host sync on a GPU."""
    with fake_cuda():
        for op in (*INDEX_OPS, "mask_to_index", "tube_mask_index", "weighted_mask_index", "changed_token_index"):
            function, arguments = good(op)
            function(**arguments)


@pytest.mark.parametrize(
    "op", [*INDEX_OPS, "mask_to_index", "tube_mask_index", "weighted_mask_index", "changed_token_index"]
)
def test_meta_tensors_give_shapes(op):
    function, arguments = good(op)
    expected = function(**arguments)
    meta = {name: x.to("meta") if isinstance(x, torch.Tensor) else x for name, x in arguments.items()}
    found = function(**meta)
    for one, other in zip(*(x if isinstance(x, tuple) else (x,) for x in (expected, found)), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert other.is_meta


def test_an_exported_op_takes_any_index_and_checks_it():
    class Gather(torch.nn.Module):
        def forward(self, x, index):
            return vk.gather_tokens(x, index)

    arguments = good("gather_tokens")[1]
    x, index = arguments["x"], arguments["index"]
    exported = torch.export.export(Gather(), (x, index)).module()
    torch.testing.assert_close(exported(x, index), vk.gather_tokens(x, index))
    with pytest.raises(ValueError, match="index must lie in"):
        exported(x, spoiled(index, -1))


def test_empty_batches_have_empty_results(backend):
    empty = {"x", "clip", "index", "visible", "decoded", "tokens", "phase", "sample", "mask", "weights"}
    for op in (
        *INDEX_OPS,
        "mask_to_index",
        "tube_mask_index",
        "random_mask_index",
        "weighted_mask_index",
        "changed_token_index",
    ):
        function, arguments = good(op)
        arguments = {
            name: (x[:0] if name in empty or name == "pred" else x).to(backend.device)
            if isinstance(x, torch.Tensor)
            else x
            for name, x in arguments.items()
        }
        if op == "masked_patch_loss":
            with pytest.raises(ValueError, match="clip has a batch of 0"):
                function(**arguments)
            continue
        result = function(**arguments)
        assert all(part.shape[0] == 0 for part in (result if isinstance(result, tuple) else (result,)))


def test_running_cells_of_many_frames_are_counted_at_once():
    from videomae_kernels.masks.running_cell import running_cell_count

    assert running_cell_count((2**28, 2, 2), 2) == 2**28 * 2


def test_rows_without_elements_need_no_kernel(backend):
    out = vk.gather_tokens(
        torch.zeros(2, TOKENS, 0, device=backend.device), torch.zeros(2, 1).long().to(backend.device)
    )
    assert out.shape == (2, 1, 0)
