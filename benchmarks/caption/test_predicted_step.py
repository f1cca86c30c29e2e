"""The memory of a step of `videomae-fast caption` on a GPU, predicted: a tower and a language model on 80 GB.

VideoChat2's third stage, which trains the tower and adapters of the language model: with adapters and without, and with
all blocks and layers repeated in backward, as shipped, or none.
"""

from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.caption.captioners import LANGUAGE_MODEL_OF, TINY, captioner_config
from benchmarks.caption.sizes import USABLE, write_language_model
from benchmarks.memory.test_predicted import memory_fields
from benchmarks.settings import Settings
from videomae_fast.memory import largest_batches
from videomae_fast.recipes.caption_memory import predictor

CONFIG = "videochat2_3"
REPEATED: dict[bool, dict[str, Any]] = {
    True: {"activation_checkpointing": True, "recompute_language": True},
    False: {"activation_checkpointing": False, "recompute": "never", "recompute_language": False},
}
Row = tuple[bool, bool, bool]


def parametrize(settings: Settings) -> tuple[str, list[Row], list[str]]:
    """All four combinations; one of the tiny size, which is there to try the suite with."""
    is_tiny = settings.options.size == ["tiny"]
    each = (True,) if is_tiny else (True, False)
    rows = [(lora, repeated, is_tiny) for lora in each for repeated in each]
    return "lora, repeated, is_tiny", rows, [f"lora {lora}-repeated {repeated}" for lora, repeated, _ in rows]


@pytest.mark.benchmark(group="caption")
def test_predicted_step(lora: bool, repeated: bool, is_tiny: bool, benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    record = benchmark.pedantic(predict, (lora, repeated, str(tmp_path), is_tiny), rounds=1)
    assert record["total_mib"] > record["peak_mib"] > 0 and record["mib_per_clip"] > 0
    benchmark.extra_info["record"] = record


def predict(lora: bool, repeated: bool, folder: str, is_tiny: bool = False) -> dict[str, Any]:
    """The record of one combination, for the clips of the settings, and for as many as fit."""
    language_model = "tiny" if is_tiny else LANGUAGE_MODEL_OF[CONFIG]
    write_language_model(language_model, folder)
    adapters = {} if lora else {"lora_rank": 0}
    config = captioner_config(CONFIG, folder, **adapters, **REPEATED[repeated], **(TINY if is_tiny else {}))
    clips, size = config.optimizer.batch_size, config.model.tower_config(config.data).image_size
    with predictor(config, None) as figures:
        at, further = figures(clips), figures(2 * clips).peak_bytes
        usable = {"card": further if is_tiny else USABLE}
        fits = largest_batches(figures, usable, (clips, 2 * clips))
    return {
        "suite": "caption",
        "name": f"step of {CONFIG}",
        "case": f"{config.model.model} and {language_model}, {clips} clips of {config.data.num_frames}x{size[0]}x"
        f"{size[1]}, texts of {config.language.max_tokens} tokens, bf16",
        "variant": f"{f'LoRA of rank {config.language.lora_rank}' if lora else 'no adapters'}, "
        f"{'all' if repeated else 'nothing'} repeated in backward",
        "predicted": True,
        **memory_fields(at),
        "mib_per_clip": (further - at.peak_bytes) / clips / 2**20,
        "largest_batch": fits["card"],
    }
