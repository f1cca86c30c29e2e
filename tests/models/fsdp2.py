"""One of two processes: FSDP2 with a bf16 policy, on crops and on clips of every dtype."""

import copy
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.func import functional_call

from videomae_fast import MaskPlan, VideoMAEConfig, VideoMAEForPretraining, make_masks
from videomae_kernels import RESIZES, CroppedClips, crop_clips

CONFIG = VideoMAEConfig(48, 2, 3, 24, 2, decoder_depth=2, num_frames=8, image_size=(32, 32), patch_size=8)
BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
BF16_BUT_INPUTS = replace(BF16, cast_forward_inputs=False)
CASES = (*RESIZES, "uint8", "float32", "float32, cast")


def blocks_of(model: VideoMAEForPretraining) -> list[nn.Module]:
    return [*model.encoder.blocks, *model.decoder.blocks]


def wrap(model: VideoMAEForPretraining, policy: MixedPrecisionPolicy) -> VideoMAEForPretraining:
    mesh = init_device_mesh("cpu", (2,))
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh, mp_policy=BF16)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def clips_of(case: str) -> Tensor | CroppedClips:
    """Two clips, the same on both processes."""
    torch.manual_seed(1)
    if case in RESIZES:
        source = torch.randint(0, 256, (8, 50, 60, 3), dtype=torch.uint8)
        return crop_clips([source], [0, 0], [(0, 0, 50, 60), (3, 4, 44, 40)], [False, True], (32, 32), case)
    pixels = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    return pixels if case == "uint8" else 100 + pixels / 255  # bfloat16 would leave of each pixel 100 or 101


def make_plan() -> MaskPlan:
    return make_masks(torch.arange(2), CONFIG.grid, mask_ratio=0.7)


def bf16_loss(model: VideoMAEForPretraining, clips: Tensor | CroppedClips) -> Tensor:
    """Without FSDP: bf16 copies of the parameters and bf16 inputs of every block; the clips as they are."""
    for block in blocks_of(model):
        block.register_forward_pre_hook(lambda _, args: (args[0].bfloat16(), *args[1:]))
    copies = {name: value.bfloat16() for name, value in model.named_parameters()}
    return functional_call(model, copies, (clips, make_plan()))


def assert_is_sharded(model: nn.Module, seen: list[torch.dtype]) -> None:
    assert isinstance(model, FSDPModule)
    assert all(isinstance(value, DTensor) and value.dtype == torch.float32 for value in model.parameters())
    assert set(seen) == {torch.bfloat16}, "the parameters are bf16 within forward"


def watch(model: VideoMAEForPretraining) -> list[torch.dtype]:
    """The dtype of a weight of every block, each time that it runs."""
    seen: list[torch.dtype] = []
    for block in blocks_of(model):
        block.register_forward_hook(lambda module, *_: seen.append(next(module.parameters()).dtype))
    return seen


def check(case: str) -> None:
    torch.manual_seed(0)
    alone = VideoMAEForPretraining(CONFIG)
    model = copy.deepcopy(alone)
    seen, clips = watch(model), clips_of(case)
    wrapped = wrap(model, BF16_BUT_INPUTS if case == "float32" else BF16)
    if case == "float32, cast":
        expect_error(wrapped, clips)
        return
    loss, expected = wrapped(clips, make_plan()), bf16_loss(alone, clips)
    loss.backward()
    assert_is_sharded(wrapped, seen)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def expect_error(wrapped: nn.Module, clips: Tensor | CroppedClips) -> None:
    try:
        wrapped(clips, make_plan())
    except ValueError as error:
        assert "clip is torch.bfloat16" in str(error) and "cast_forward_inputs=False" in str(error)
    else:
        raise AssertionError("FSDP2 cast a clip, and nobody was told")


def main() -> None:
    """Every case; a line for each that agrees."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for case in CASES:
        check(case)
        print("agree:", case, flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
