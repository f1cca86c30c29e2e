"""Every file of examples/configs/accelerate asks for the engine in its name, as accelerate launch reads it."""

import os
from pathlib import Path

import accelerate
import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from videomae_fast.engine.parallel import _fsdp_plugin, asked_engine

FOLDER = Path(__file__).parents[2] / "examples/configs/accelerate"
FILES = {"ddp": ("DDP", 1), "ddp_multi_node": ("DDP", 2), "fsdp2": ("FSDP2", 1), "fsdp2_multi_node": ("FSDP2", 2)}


def test_no_file_is_left_out() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_the_launcher_asks_for_the_engine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, nodes = FILES[name]
    command = ["--config_file", str(FOLDER / f"{name}.yaml"), "-m", "videomae_fast", "pretrain"]
    args, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    assert (args.num_machines, args.num_processes) == (nodes, 8 * nodes)
    for variable in [each for each in os.environ if each.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(variable)
    for variable, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(variable, value)
    assert asked_engine() == engine
    if engine == "FSDP2":
        plugin = _fsdp_plugin(accelerate, "bf16")
        assert plugin.reshard_after_forward is True and plugin.cpu_ram_efficient_loading is False
        assert "transformer_auto_wrap_policy" in str(plugin.auto_wrap_policy)
        assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
