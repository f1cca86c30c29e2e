"""Commands after pre-training: every setting has an option, and a file may give them."""

from dataclasses import Field
from pathlib import Path
from typing import Any

import pytest

from videomae_fast.cli import main
from videomae_fast.engine import RunResult
from videomae_fast.recipes import align as aligning
from videomae_fast.recipes import (
    caption_features,
    evaluate_captions,
    evaluate_choices,
    evaluate_probe,
    evaluate_retrieval,
    evaluate_zeroshot,
    features,
)
from videomae_fast.recipes import distil as distilling
from videomae_fast.recipes import evaluate as evaluating
from videomae_fast.recipes import finetune as finetuning
from videomae_fast.recipes.align import AlignConfig
from videomae_fast.recipes.config import Config
from videomae_fast.recipes.distil import DistilConfig
from videomae_fast.recipes.evaluate import EvaluateConfig
from videomae_fast.recipes.features import FeaturesConfig
from videomae_fast.recipes.finetune import FinetuneConfig

CONFIGS: dict[str, type[Config]] = {
    "align": AlignConfig,
    "finetune": FinetuneConfig,
    "distil": DistilConfig,
    "evaluate": EvaluateConfig,
    "features": FeaturesConfig,
}
OPTIONS = [(command, field) for command, config in CONFIGS.items() for _, field in config.options()]
# What no rule about the default finds, and what another option needs.
VALUES = {
    "track": "none",
    "trained_clip": "8x32x32",
    "train": "last:2",
    "drop_tokens": "random:0.5",
    "distil_interval": "2.5",
    "rand_augment": "rand-m5-n2-inc1",
}
NEEDS = {
    "eval_every": {"eval_data": "more"},
    "init_classes": {"init": "weights"},
    "init_merged": {"init": "weights", "init_classes": "names.txt"},
    "probe": {"train_data": "more"},
    "train_data": {"probe": "knn"},
    "templates": {"task": "zeroshot"},
    "text_model": {"task": "retrieval"},
    "language_model": {"task": "caption"},
    "max_new_tokens": {"task": "choice"},
}


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Config]:
    """The configurations that the commands are called with; none runs."""
    asked: list[Config] = []

    def finetune(config: Config) -> RunResult:
        asked.append(config)
        return RunResult(Path("nowhere"), 0, is_main_process=False, finished=False)

    class NotMain:
        is_main_process = False

    def evaluate(config: Config) -> Any:
        asked.append(config)
        return NotMain()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(aligning, "align", finetune)
    monkeypatch.setattr(finetuning, "finetune", finetune)
    monkeypatch.setattr(distilling, "distil", finetune)
    monkeypatch.setattr(evaluating, "evaluate", evaluate)
    monkeypatch.setattr(evaluate_probe, "evaluate_probe", evaluate)
    monkeypatch.setattr(evaluate_retrieval, "evaluate_retrieval", evaluate)
    monkeypatch.setattr(evaluate_zeroshot, "evaluate_zeroshot", evaluate)
    monkeypatch.setattr(evaluate_captions, "evaluate_captions", evaluate)
    monkeypatch.setattr(evaluate_choices, "evaluate_choices", evaluate)
    monkeypatch.setattr(features, "write_features", lambda config, say: asked.append(config))
    monkeypatch.setattr(caption_features, "write_caption_features", asked.append)
    return asked


def _another(field: Field) -> str | None:
    """Another value than the default; None for a switch."""
    default, choices = field.default, field.metadata["choices"]
    if isinstance(default, bool):
        return None
    if choices:
        return next(choice for choice in choices if choice != default)
    return VALUES.get(field.name) or (
        str(default + 1)
        if isinstance(default, int)
        else "0.375"
        if isinstance(default, float)
        else f"another {default}"
    )


def _needed(command: str, field: Field) -> dict[str, str]:
    """The other options that one needs, of those that the command has."""
    known = CONFIGS[command]().flat()
    return {name: value for name, value in NEEDS.get(field.name, {}).items() if name in known}


@pytest.mark.parametrize("command, field", OPTIONS, ids=[f"{command}-{field.name}" for command, field in OPTIONS])
def test_every_setting_has_an_option(command: str, field: Field, configs: list[Config]) -> None:
    name, value, needed = field.name.replace("_", "-"), _another(field), _needed(command, field)
    switch = [f"--no-{name}" if field.default else f"--{name}"]
    more = [text for key, given in needed.items() for text in (f"--{key.replace('_', '-')}", given)]
    assert main([command, *(switch if value is None else [f"--{name}", value]), *more]) == 0
    changed = configs[0].flat()[field.name]
    assert changed != field.default and type(changed) is type(field.default)
    rest = {other: value for other, value in configs[0].flat().items() if other not in {field.name, *needed}}
    assert rest == {other: CONFIGS[command]().flat()[other] for other in rest}


@pytest.mark.parametrize("command", CONFIGS)
def test_options_of_a_file_give_way_to_the_command_line(command: str, configs: list[Config], tmp_path: Path) -> None:
    section, name, values = {
        "align": ("teachers", "video_weight", (2.0, 3.0)),
        "finetune": ("model", "drop_path", (0.25, 0.5)),
        "distil": ("distillation", "temperature", (2.0, 3.0)),
        "evaluate": ("views", "segments", (4, 6)),
        "features": ("windows", "window_stride", (2, 8)),
    }[command]
    (tmp_path / "options.json").write_text(f'{{"{section}": {{"{name}": {values[0]}}}}}')
    file = ["--config", str(tmp_path / "options.json")]
    assert main([command, *file]) == main([command, *file, f"--{name.replace('_', '-')}", str(values[1])]) == 0
    assert [config.flat()[name] for config in configs] == list(values)


@pytest.mark.parametrize("command", CONFIGS)
def test_help_and_names(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = [field.name for _, field in CONFIGS[command].options()]
    assert len(set(names)) == len(names)
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and all(f"--{name.replace('_', '-')}" in shown for name in names)
