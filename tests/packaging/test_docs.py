"""What README.md and docs/ tell people to type works, and everything that they link to or name exists."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.packaging.pages import (
    DOCS,
    FENCE,
    PAGES,
    ROOT,
    arguments,
    ci_script,
    commands,
    is_run_by_ci,
    links,
    name,
    named_paths,
)

# Commands that take too long here, each by its first words, with the test that runs it (file name, function).
COVERED = {
    "torchrun --nproc-per-node 8 -m videomae_fast pretrain": ("test_processes.py", "test_two_processes_equal_one"),
    "accelerate launch --config_file examples/configs/accelerate/fsdp2.yaml": (
        "test_launch_files.py",
        "test_the_launcher_asks_for_the_engine",
    ),
    "videomae-fast convert runs/sharded": ("test_sharded_weights.py", "test_shards_become_one_file"),
    "videomae-fast align --demo": ("test_align_demo.py", "test_the_demo"),
    "videomae-fast align --config": ("test_alignment.py", "test_the_loss_falls_and_a_run_continues_exactly"),
    "videomae-fast finetune --config examples/configs/finetune/internvideo2": (
        "test_internvideo2_runs.py",
        "test_from_an_aligned_student_to_scores",
    ),
    "videomae-fast evaluate --data val.csv --init runs/k710": (
        "test_internvideo2_runs.py",
        "test_from_an_aligned_student_to_scores",
    ),
    "videomae-fast contrast --audio-model": ("test_contrast_sound.py", "test_the_command"),
    "videomae-fast memory --recipe contrast": ("test_contrast_memory.py", "test_the_command"),
    "videomae-fast contrast --demo --output": ("test_contrast_demo.py", "test_the_demo"),
    "videomae-fast contrast --demo order": ("test_contrast_order_demo.py", "test_the_demo_is_two_runs"),
    "videomae-fast memory --recipe caption": ("test_caption_memory.py", "test_the_command"),
    "videomae-fast contrast --config": ("test_contrast_demo.py", "test_the_demo"),
    "videomae-fast contrast --data": ("test_contrastive.py", "test_the_command"),
    "videomae-fast contrast --demo --init": ("test_chain.py", "test_from_pixels_to_sentences"),
    "videomae-fast pretrain --demo --output runs/pretrained": ("test_chain.py", "test_from_pixels_to_sentences"),
    "videomae-fast caption --demo": ("test_caption_demo.py", "test_the_demo"),
    "videomae-fast caption --data": ("test_caption.py", "test_the_command"),
    "videomae-fast describe": ("test_describe.py", "test_damaged_and_missing_videos_are_named_and_others_done"),
    "python tests/ptx/example.py": ("test_alone.py", "test_the_example_runs_without_torch_and_elsewhere"),
    "python -m benchmarks.host": ("test_host.py", "test_the_table_has_both_registrations_of_every_token_op"),
    "python -m benchmarks.tune": ("test_tune.py", "test_cases_are_found_and_timed"),
    "python -m benchmarks --suite ops": ("test_suites.py", "test_every_public_op_is_measured"),
    "python -m benchmarks --suite all": ("test_suites.py", "test_results_are_json_tables_and_pictures"),
    "python -m benchmarks --suite roofline": ("test_suites.py", "test_predicted_records_are_apart"),
    "python -m benchmarks.roofline": ("test_compare.py", "test_the_command"),
    "python .ci/gpu": ("test_gpu_script.py", "test_a_dry_run_goes_through_everything"),
    "videomae-fast evaluate --task retrieval": (
        "test_evaluate_retrieval.py",
        "test_the_command_writes_figures_tables_and_a_picture",
    ),
    "videomae-fast evaluate --task zeroshot": (
        "test_evaluate_zeroshot.py",
        "test_the_command_of_zero_shot_writes_what_evaluate_writes",
    ),
    "videomae-fast evaluate --task caption": (
        "test_evaluate_captions.py",
        "test_the_command_writes_figures_and_captions",
    ),
    "videomae-fast evaluate --task choice": ("test_evaluate_choices.py", "test_the_command_writes_figures_and_answers"),
    "videomae-fast features --captions": ("test_caption_features.py", "test_captions"),
    "python -m benchmarks --suite memory": ("test_suites.py", "test_predicted_records_are_apart"),
}
# Appended to commands that are run here, so that each takes seconds: the last value of an option counts.
SMALLER = "--model small --num-frames 4 --image-size 32 --frame-stride 1 --crops-per-video 1 --batch-size 1"
SHRUNK = {
    "pretrain": f"{SMALLER} --workers 0 --warmup-epochs 1 --max-steps 1",
    "align": f"{SMALLER} --workers 0 --warmup-epochs 1 --max-steps 1",
    "finetune": f"{SMALLER} --workers 0 --max-steps 1",
    "distil": f"{SMALLER} --workers 0 --max-steps 1",
    "evaluate": "--workers 0 --segments 1 --crops 1 --frame-stride 1 --sampling dense",
    "features": "--window-stride 64 --batch-size 1",
    "gallery": SMALLER,
    "memory": "--model small --batch-size 2",
    "check-data": "--workers 0",
    "transcode": "--workers 0 --short-side 64",
    "convert": "",
    "env": "",
}

ALL = [(page, command) for page in PAGES for command in commands(page)]
IDS = [f"{name(page)}: {command[:60]}" for page, command in ALL]
SITE = "mkdocs build --strict"


def test_pages_are_found() -> None:
    assert {"README.md", "docs/training.md", "docs/exactness.md"} <= {name(page) for page in PAGES}
    assert len(ALL) > 15


@pytest.mark.parametrize(("page", "command"), ALL, ids=IDS)
def test_every_command_is_run_somewhere(page: Path, command: str) -> None:
    """By CI as it stands, by `test_commands_run`, by pytest on a folder of tests, or by a test that COVERED names."""
    if is_run_by_ci(command):
        return
    own = arguments(command)
    if own:
        from videomae_fast.cli import build_parser

        build_parser().parse_args(own)  # SystemExit if an option has another name
        assert own[0] in SHRUNK or any(map(command.startswith, COVERED)), f"nothing runs `{command}`"
    elif command.startswith("python .ci/gpu"):
        assert any(map(command.startswith, COVERED)) and (ROOT / ".ci" / "gpu").is_file()
    elif command.startswith("python -m benchmarks"):
        _parse_benchmarks(shlex.split(command)[2:])
        assert any(map(command.startswith, COVERED)), f"nothing runs `{command}`"
    elif not any(map(command.startswith, COVERED)):
        assert _is_pytest_on_tests(shlex.split(command)), f"neither CI nor a test runs `{command}`"


def _parse_benchmarks(words: list[str]) -> None:
    if words[0] == "benchmarks":
        from benchmarks.__main__ import build_parser

        build_parser().parse_args(words[1:])
    else:
        assert find_spec(words[0]), f"there is no module {words[0]}"


def _is_pytest_on_tests(words: list[str]) -> bool:
    if words[:3] != ["python", "-m", "pytest"]:
        return False
    paths = [word for word in words[3:] if "/" in word]
    return bool(paths) and all((ROOT / path).exists() for path in paths)


@pytest.mark.parametrize("start", COVERED)
def test_no_exception_is_stale(start: str) -> None:
    """The command is on a page, and the test that is said to cover it exists."""
    file, function = COVERED[start]
    assert any(command.startswith(start) for _, command in ALL), f"no page has `{start}`"
    (path,) = (ROOT / "tests").rglob(file)
    assert f"def {function}(" in path.read_text(encoding="utf-8")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a reader of the pages has: videos, a list of them, a checkpoint, the shipped settings."""
    from videomae_fast import VideoMAEForPretraining, get_config, interop
    from videomae_fast.data import demo_folder
    from videomae_fast.models.config import CONFIGS, INTERNVIDEO2_CONFIGS

    for sizes in (CONFIGS, INTERNVIDEO2_CONFIGS):  # of fewer blocks, and narrow: a third of the time of a command
        monkeypatch.setitem(sizes, "small", replace(sizes["small"], encoder_dim=96, encoder_depth=4, encoder_heads=2))
    pytest.importorskip("av")
    pytest.importorskip("accelerate")
    (tmp_path / "videos").mkdir()
    files = [shutil.copy(file, tmp_path / "videos") for file in sorted(demo_folder().glob("*.mp4"))]
    (tmp_path / "videos" / "list.txt").write_text("".join(f"{Path(file).name}\n" for file in files))
    for number, file in enumerate(files):
        (tmp_path / "labelled" / f"class {number}").mkdir(parents=True)
        shutil.copy(file, tmp_path / "labelled" / f"class {number}" / "clip.mp4")
    rows = "".join(f"class {number}/clip.mp4,class {number}\n" for number in range(len(files)))
    for name_of_list in ("train.csv", "val.csv"):
        (tmp_path / "labelled" / name_of_list).write_text(rows)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    interop.save_published(VideoMAEForPretraining(get_config("small")), "checkpoint.pth")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_run(page: Path, workspace: Path) -> None:
    """The `videomae-fast` commands of a page, from top to bottom in one folder, on a small model and short clips."""
    from videomae_fast.cli import main

    for command in commands(page):
        own = arguments(command)
        if own is None or is_run_by_ci(command) or any(map(command.startswith, COVERED)):
            continue
        if own[0] == "pretrain" and "--resume" not in own:
            shutil.rmtree(workspace / "runs", ignore_errors=True)
        steps = ["--max-steps", "2"] if "--resume" in own else []
        model = ["--model", "internvideo2-small"] if "--model internvideo2-" in command else []
        assert main([*own, *shlex.split(SHRUNK[own[0]]), *model, *steps]) == 0, f"failed: {command}"
        for option in ("--output", "--clean"):
            if option in own:
                assert (workspace / own[own.index(option) + 1]).exists(), f"wrote nothing: {command}"


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, in one namespace, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    text, namespace = page.read_text(encoding="utf-8"), {"__name__": "page"}
    for block in FENCE.finditer(text):
        if block[1] == "python":
            line = text.count("\n", 0, block.start(2))
            exec(compile("\n" * line + block[2], str(page), "exec"), namespace)


def test_the_mixture_on_the_data_page_is_one() -> None:
    from videomae_fast.data.sources.mixture_file import _KEYS

    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (block,) = (code for language, code in FENCE.findall(text) if language == "json")
    sources = json.loads(block)
    assert all("data" in source and source.keys() <= _KEYS.keys() for source in sources)
    below = text[text.index(block) + len(block) :].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", below)) == _KEYS.keys()


def test_the_training_page_has_every_option() -> None:
    from videomae_fast.cli import build_parser

    choices = next(action.choices for action in build_parser()._actions if action.dest == "command")
    parser = choices["pretrain"]
    options = {action.option_strings[0] for action in parser._actions}  # not the --no-… of a switch
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(--[\w-]+)` \|", text, re.MULTILINE)) == options - {"-h"}


def test_the_fine_tuning_page_has_every_option() -> None:
    """But for those of pre-training, which the training page has, and the common ones of every command."""
    from videomae_fast.cli import build_parser

    choices = next(action.choices for action in build_parser()._actions if action.dest == "command")
    text = (ROOT / "docs" / "finetuning.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(--[\w-]+)`", "".join(re.findall(r"^\| `.*? \|", text, re.MULTILINE))))
    known = {action.option_strings[0] for action in choices["pretrain"]._actions} | {"--precision"}
    options = {
        action.option_strings[0]
        for command in ("finetune", "distil", "evaluate", "features")
        for action in choices[command]._actions
    }
    assert options - known <= named <= options


def test_the_page_of_alignment_has_every_option() -> None:
    """But for those of pre-training, which the training page has."""
    from videomae_fast.cli import build_parser

    choices = next(action.choices for action in build_parser()._actions if action.dest == "command")
    text = (ROOT / "docs" / "alignment.md").read_text(encoding="utf-8")
    table = text[text.index("\n## Options of `align`") :].partition("\n## Published")[0]
    named = set(re.findall(r"`(--[\w-]+)`", "".join(re.findall(r"^\| `.*? \|", table, re.MULTILINE))))
    known, options = (
        {action.option_strings[0] for action in choices[command]._actions} for command in ("pretrain", "align")
    )
    assert options - known <= named <= options


def test_the_page_of_captioning_has_every_option() -> None:
    """But for those that `contrast` has, too; some of these have another default here."""
    from videomae_fast.cli import build_parser

    choices = next(action.choices for action in build_parser()._actions if action.dest == "command")
    text = (ROOT / "docs" / "captioning.md").read_text(encoding="utf-8")
    table = text[text.index("\n### Options of `caption`") :].partition("\n### ")[2].partition("\n### ")[0]
    named = set(re.findall(r"`(--[\w-]+)`", "".join(re.findall(r"^\| `.*? \|", table, re.MULTILINE))))
    known, options = (
        {action.option_strings[0] for action in choices[command]._actions} for command in ("contrast", "caption")
    )
    known |= {action.option_strings[0] for action in choices["pretrain"]._actions}
    assert options - known <= named <= options


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [target for target in links(page) if not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_paths_exist(page: Path) -> None:
    """A `path/like/this` is one from the root of the repository, or from the page's folder."""
    top = {path.name for path in ROOT.iterdir()} - {"runs"}  # which commands write
    named = [path for path in named_paths(page) if path.split("/")[0] in top or path.endswith(".py")]
    assert [path for path in named if not ((ROOT / path).exists() or (page.parent / path).exists())] == []


def test_the_api_page_names_what_is_public() -> None:
    """Every op and every public name of the library stands on it; a name that is gone fails the site's build."""
    import videomae_fast
    import videomae_kernels

    named = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(set(named)) == len(named)
    assert {f"videomae_kernels.{public}" for public in videomae_kernels.__all__} <= set(named)
    assert {f"videomae_fast.{public}" for public in videomae_fast.__all__ if public != "CONFIGS"} <= set(named)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^  - [^:]+: ([\w-]+\.md)$", text[text.index("\nnav:") :], re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in DOCS)


def test_published_is_defined_where_a_page_first_uses_it() -> None:
    """Each page of docs/ that calls something published links to, or gives, the definition."""
    for page in DOCS:
        text = page.read_text(encoding="utf-8")
        if "published" in text.lower():
            assert re.search(r"OpenGVLab/VideoMAEv2@29eab1e|\]\(exactness\.md\)", text), name(page)


def test_the_site_is_built_by_ci() -> None:
    assert SITE in ci_script()
