"""What a run of contrastive pre-training says before it begins on a GPU, and how it then makes its video tower."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.recipes import paired
from tests.recipes.test_contrast_memory import FUSION, MIB, figures, recipe
from videomae_fast.memory import MemoryFigures
from videomae_fast.memory.figures import CATEGORIES, Moment
from videomae_fast.recipes import contrast_fit, contrast_memory, step_fit
from videomae_fast.recipes.contrast import Contrast

pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model without weights."""
    return paired.write_text_model(tmp_path_factory.mktemp("sizes"), weights=False)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A GPU whose memory a test chooses, that of a context and of fragmentation apart."""
    found = SimpleNamespace(total_memory=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    monkeypatch.setattr("videomae_fast.recipes.fit.activate_flash_attention", lambda device: "")
    monkeypatch.setattr(step_fit, "ALLOWANCE", 0)
    yield found


def figures_of(size: int) -> MemoryFigures:
    breakdown = dict.fromkeys(CATEGORIES, 0) | {"parameters": MIB, "optimizer state": 2 * MIB}
    return MemoryFigures([size], size, Moment("forward", "", ""), breakdown, {}, None)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Predictions without a model: 10 MiB, and 1 MiB for four frames of a clip, twice that without recomputation."""
    asked: list[tuple[int, int]] = []

    def known_predictor(of: Contrast, pairs: int | None, *others: Any) -> Any:
        frames, factor = of.config.data.num_frames, 2 if of.config.model.recompute == "never" else 1

        def predict(clips: int) -> MemoryFigures:
            asked.append((frames, clips))
            return figures_of(10 * MIB + factor * min(clips, pairs or clips) * frames * MIB // 4)

        return nullcontext(predict)

    monkeypatch.setattr(contrast_fit, "predictor", known_predictor)
    monkeypatch.setattr(contrast_memory, "predictor", known_predictor)
    return asked


def fit(text: Path, group: Any = None, **changes: Any) -> tuple[str, list[str]]:
    """The choice of recomputation, and the lines, of a run of clips of 8 frames in batches of 12."""
    said: list[str] = []
    of = recipe(text, **({"num_frames": 8, "batch_size": 12} | changes))
    of.group = group
    options = contrast_fit.fit_contrast(of, torch.device("cuda"), said.append)
    assert replace(options, recompute="auto") == replace(of.config.model, recompute="auto")
    return options.recompute, said


@pytest.mark.usefixtures("known")
def test_what_a_run_says(card: SimpleNamespace, sizes: Path) -> None:
    card.total_memory = 2**10 * MIB
    fits = "with 12 pairs at a time; largest that fits: 507 pairs at a time, or clips of 338 frames"
    assert fit(sizes) == ("never", [f"predicted memory of a step: 0.1 of the 1.0 GiB that can be used, {fits}"])
    assert fit(sizes, recompute="always")[0] == "always" == fit(sizes, recompute="always")[0]
    assert fit(sizes, micro_batch=3)[1][0].endswith("with 3 pairs at a time; largest that fits: 12 pairs at a time, or "
        "clips of 1352 frames")  # fmt: skip
    card.total_memory = 50 * MIB  # 34 MiB with recomputation, 58 without
    assert fit(sizes)[0] == "auto" and len(fit(sizes)[1]) == 1
    assert fit(sizes, ema_decay=0.5)[1][0].endswith("largest that fits: 19 pairs at a time, or clips of 12 frames")
    card.total_memory = 20 * MIB
    advice = "take --micro-batch 4 or --num-frames 2 or a larger --mask-ratio or --train last:K"
    assert fit(sizes)[1][1] == f"this step is predicted not to fit: {advice}"
    assert fit(sizes, recompute="never")[1][1].endswith(
        "take --micro-batch 2 or a larger --mask-ratio or --train last:K"
    )
    card.total_memory = 8 * MIB
    assert fit(sizes)[1][1].endswith("take a larger --mask-ratio or --train last:K")


def group_of(ranks: int, rank: int = 0) -> SimpleNamespace:
    return SimpleNamespace(size=lambda: ranks, rank=lambda: rank)


@pytest.mark.usefixtures("known")
def test_what_several_processes_say(card: SimpleNamespace, sizes: Path) -> None:
    """The buckets of DDP hold the gradients, half of AdamW's state: 1 MiB. The first rank speaks."""
    card.total_memory = 50 * MIB
    fits = {ranks: fit(sizes, group_of(ranks))[1] for ranks in (1, 2)}
    assert fits[1] == fit(sizes)[1] and fits[1][0].endswith("fits: 20 pairs at a time, or clips of 12 frames")
    assert fits[2][0].endswith("fits: 19 pairs at a time, or clips of 12 frames") and len(fits[2]) == 1
    assert fit(sizes, group_of(2, rank=1))[1] == []
    card.total_memory = 34 * MIB  # which the step takes without DDP
    assert len(fit(sizes, group_of(1))[1]) == 1 and len(fit(sizes, group_of(2))[1]) == 2
    gathers = FUSION | {"negatives": "global"}
    note = "; the tokens that --negatives global gathers are not in it"
    for ranks, options, expected in ((2, gathers, True), (1, gathers, False), (2, FUSION, False)):
        assert fit(sizes, group_of(ranks), **options)[1][0].endswith(note) == expected


def test_nothing_is_predicted_on_a_cpu(known: list[tuple[int, int]], sizes: Path) -> None:
    said: list[str] = []
    of = recipe(sizes)
    assert contrast_fit.fit_contrast(of, torch.device("cpu"), said.append) is of.config.model
    assert not said and not known


def test_a_text_model_that_cannot_be_predicted(
    card: SimpleNamespace, sizes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on, and says so."""

    def fails(*_: Any) -> None:
        raise NotImplementedError("attention with enable_gqa cannot be predicted")

    monkeypatch.setattr(contrast_memory, "ContrastStep", fails)
    card.total_memory = 2**30
    message = "memory of this step cannot be predicted: attention with enable_gqa cannot be predicted"
    assert fit(sizes) == ("auto", [message])


@pytest.mark.slow
@pytest.mark.parametrize("mib, expected", [(80, "never"), (2, "auto")])
def test_a_run_is_built_as_it_is_predicted(
    mib: int, expected: str, card: SimpleNamespace, pairs: Path, text_model: Path, tmp_path: Path
) -> None:
    """And its random numbers are those of a run whose memory nobody predicted."""
    card.total_memory = mib * MIB
    said: list[str] = []
    of = Contrast(paired.settings(pairs, text_model, tmp_path, num_frames=8))
    torch.manual_seed(1)
    model, _ = of.build(torch.device("cuda"), said.append)
    torch.manual_seed(1)
    unpredicted, _ = Contrast(of.config).build(torch.device("cpu"), said.append)
    for weight, other in zip(model.parameters(), unpredicted.parameters(), strict=True):
        assert torch.equal(weight, other)
    assert model.vision_encoder.config.recompute == expected
    peak = figures(Contrast(of.config.with_options(recompute=expected)), 4).peak_bytes
    begin = f"predicted memory of a step: {peak / 2**30:.1f} of the {mib / 1024:.1f} GiB that can be used, with 4 pairs"
    assert said[0].startswith(begin) and len(said) == 1 + (peak > mib * MIB)
    fits, frames = (int(word) for word in said[0].partition("largest")[2].split() if word.isdigit())
    if peak <= mib * MIB:
        assert figures(of, fits).peak_bytes <= mib * MIB < figures(of, fits + 1).peak_bytes
        assert figures(Contrast(of.config.with_options(num_frames=frames)), 4).peak_bytes <= mib * MIB
