"""Multiple-choice questions to a run of `caption`: each answer against one made alone, figures, files, bad input."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes import tiny
from videomae_fast.cli import main
from videomae_fast.data import CaptionedVideos, MissingVideo, ViewDataset
from videomae_fast.models.captioner import VideoCaptioner
from videomae_fast.models.chat_tokens import encode_chat
from videomae_fast.models.config import CONFIGS
from videomae_fast.recipes.caption import caption
from videomae_fast.recipes.describe import Describer
from videomae_fast.recipes.evaluate import EvaluateConfig
from videomae_fast.recipes.evaluate_choices import Answer, Answered, ChoiceResult, evaluate_choices

pytest.importorskip("transformers")
from tests.models.chatting import tokenizer
from tests.recipes import captioning

MISSING = MissingVideo(9, "gone.mp4", "it is gone")


@pytest.fixture(scope="module")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of masks that learned a little, by a language model with a context long enough for questions."""
    folder = tmp_path_factory.mktemp("captioner")
    language = captioning.write_language_model(folder / "language", max_position_embeddings=1024)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", tiny.TINY)
        caption(captioning.settings(pairs, language, folder / "run", max_steps=2, mask_ratio=0.25, train="all"))
    return folder / "run"


def question(path: str, answer: int, *candidates: str, **changes: Any) -> dict[str, Any]:
    return {"video": path, "question": "What moves?", "candidates": candidates, "answer": candidates[answer], **changes}


@pytest.fixture(scope="module")
def tasks(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of two tasks, of which the second has an image and a video that cannot be read, asked about twice."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "broken.mp4").write_bytes(b"no video")
    motion = [question(f"video{n}.mp4", n % 2, "red rows", "the wide columns stand", start=n / 20) for n in range(3)]
    image = question(str(pairs.parent / "image1.png"), 2, "a", "it is the red", "blue")
    colour = [question("broken.mp4", 0, "red", "blue"), {"image": image.pop("video")} | image]
    colour += [colour[0], question(str(pairs.parent / "video5.mp4"), 1, "red", "green", "blue", "wide")]
    (folder / "motion.json").write_text(json.dumps(motion))
    (folder / "colour.json").write_text(json.dumps(colour))
    sources = [{"data": "motion.json", "root": str(pairs.parent)}, {"data": "colour.json"}]
    (folder / "tasks.json").write_text(json.dumps(sources))
    return folder / "tasks.json"


def evaluation(data: Path, run: Path, /, **changes: Any) -> EvaluateConfig:
    given = {"task": "choice", "data": str(data), "init": str(run), "workers": 0, "precision": "fp32"}
    return EvaluateConfig.from_options(**(given | {"batch_size": 3, "max_new_tokens": 4} | changes))


@pytest.fixture(scope="module")
def result(tasks: Path, run: Path) -> ChoiceResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONFIGS, "tiny", tiny.TINY)
        return evaluate_choices(evaluation(tasks, run))


@torch.no_grad()
def alone(describer: Describer, each: Answered) -> Answer:
    """The answer to one question, and the loss of each option by itself."""
    image = each.video.is_image
    dataset = ViewDataset(
        CaptionedVideos([each.video]), num_frames=1 if image else 4, frame_stride=4, size=(32, 32), short_side=32,
        segments=1, crops=1, sampling="uniform",
    )  # fmt: skip
    clips, model, visible = dataset[0].clips, describer.model, describer.visible(1, image)
    assert clips is not None
    asked = encode_chat(describer.tokenizer, [each.choice.messages()], max_tokens=9999, generation=True)
    (text,) = describer.answers(clips, asked, 4, image=image)
    likely = []
    for letter, option in zip("ABCD", each.choice.candidates, strict=False):
        talk = [*each.choice.messages(), {"role": "assistant", "content": f"({letter}) {option}"}]
        found = model(clips, encode_chat(describer.tokenizer, [talk], max_tokens=9999), visible)
        likely.append(-float(found.loss) * found.tokens)
    return Answer(text, tuple(likely))


def test_answers_are_those_of_each_question_alone(result: ChoiceResult, run: Path) -> None:
    """Of videos, parts of them and an image, with two to four options, in batches of three."""
    describer = Describer(str(run))
    assert [each.task for each in result.answered] == ["motion"] * 3 + ["colour"] * 2
    assert [each.video.start for each in result.answered] == [0, 0.05, 0.1, 0, 0]
    for each in result.answered:
        expected = alone(describer, each)
        assert each.answer.text == expected.text
        assert each.answer.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-4)
        assert len(set(each.answer.log_likelihood)) == len(each.choice.candidates)
    figures = result.figures()
    right = [each.answer.likeliest == each.choice.answer for each in result.answered]
    assert figures["likelihood_accuracy"] == sum(right) / 5 and figures["questions"] == 5 and figures["missing"] == 2
    assert figures["chance"] == pytest.approx((3 / 2 + 1 / 3 + 1 / 4) / 5)
    assert figures["tasks"]["colour"]["missing"] == 2 and figures["tasks"]["colour"]["questions"] == 2
    assert figures["task_mean_chance"] == pytest.approx((1 / 2 + (1 / 3 + 1 / 4) / 2) / 2)
    lines = result.lines()
    assert [line.partition(":")[0] for line in lines[:4]] == ["motion", "colour", "all questions", "mean over 2 tasks"]
    assert "chance 50.00%" in lines[0] and len(lines) == 6 and "broken.mp4: " in lines[5]


def test_figures_belong_to_their_questions(tasks: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that knows what is right is right, and one that writes nothing is unclear."""
    right: list[int] = []

    def likely(self: VideoCaptioner, clips: Any, tokens: Any, clip_of: Any, visible: Any = None) -> torch.Tensor:
        return torch.tensor([float(self.said.pop(0)) for _ in clip_of])  # type: ignore[operator, union-attr]

    def write(self: Describer, clips: Any, tokens: Any, *rest: Any, image: bool = False) -> list[str]:
        own = [right.pop(0) for _ in tokens.place]
        return [f"({'ABCD'[number]})" if number >= 0 else "" for number in own]

    monkeypatch.setattr(VideoCaptioner, "log_likelihood", likely)
    monkeypatch.setattr(Describer, "answers", write)
    monkeypatch.setattr(VideoCaptioner, "said", [], raising=False)
    listed = [(2, 0), (2, 1), (2, 0), (4, 1), (3, 2)]  # videos first, then the image: options, and the right one
    for text, offset, accuracy, unclear in ((1, 0, 1.0, 0.0), (0, 1, 0.0, 1.0)):
        right[:] = [answer if text else -1 for _, answer in listed]
        shifted = [[(k + offset) % options == answer for k in range(options)] for options, answer in listed]
        monkeypatch.setattr(VideoCaptioner, "said", [value for each in shifted for value in each])
        found = evaluate_choices(evaluation(tasks, run)).figures()
        assert (found["accuracy"], found["unclear"]) == (accuracy, unclear)
        assert found["likelihood_accuracy"] == found["task_mean_likelihood_accuracy"] == accuracy


def test_the_command_writes_figures_and_answers(
    pairs: Path, tasks: Path, run: Path, result: ChoiceResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tasks.parent / "motion.json"
    config = evaluation(listed, run, root=str(pairs.parent), output=str(tmp_path / "out"))
    assert main(tiny.arguments(config, "evaluate")) == 0
    out = capsys.readouterr().out
    assert "motion: accuracy of answers " in out and "chance 50.00%" in out and "mean over" not in out
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text("utf-8").splitlines()]
    motion = replace(result, tasks={"motion": 3}, answered=result.answered[:3], missing={"motion": ()})
    for row, each in zip(rows, motion.answered, strict=True):
        assert row["answer"] == each.choice.candidates[each.choice.answer] and row["task"] == "motion"
        assert row["likeliest"] == each.choice.candidates[each.answer.likeliest] and row["text"] == each.answer.text
        assert row["log_likelihood"] == pytest.approx(each.answer.log_likelihood, rel=1e-4) and row["end"] is None
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == motion.figures()


@pytest.mark.slow
def test_two_processes_answer_as_one(tasks: Path, run: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        arguments = tiny.arguments(evaluation(tasks, run, output=str(folder)), "evaluate")
        if processes == 2:
            assert tiny.launch(arguments, "tests.recipes.captioning").count("all questions: ") == 1
        else:
            assert main(arguments) == 0
        rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text("utf-8").splitlines()]
        likely = [value for row in rows for value in row.pop("log_likelihood")]
        files = [(folder / name).read_text() for name in ("metrics.json", "missing.tsv")]
        found.append((rows, files, likely))
    assert found[0][:2] == found[1][:2]
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-4)  # batches differ


def test_a_task_of_which_no_video_can_be_read_is_said(result: ChoiceResult) -> None:
    """It is in no mean."""
    gone = replace(result, tasks=result.tasks | {"gone": 2}, missing=dict(result.missing) | {"gone": [MISSING] * 2})
    assert "gone: no video of its 2 questions can be read" in gone.lines()
    assert gone.figures()["task_mean_accuracy"] == result.figures()["task_mean_accuracy"]
    assert gone.figures()["missing"] == 4 and gone.figures()["tasks"]["gone"] == {"questions": 0, "missing": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "data is empty: name a list of multiple-choice questions"),
        ({"init": ""}, "init is empty: name a run of caption"),
        ({"init": "FOLDER"}, "init must be a run of caption, which has a connector"),
        ({"data": "EMPTY"}, r"empty\.json has no entries"),
        ({"data": "TWICE"}, r"twice\.json, entry 1: candidates must differ, got 'red' more than once"),
        ({"data": "OTHER"}, r"other\.json, entry 1: answer must be one of the candidates, got 'green'"),
        (
            {"data": "LONG"},
            r"task long, question 2 has \d+ tokens, \d+ with its longest option, and the language model",
        ),
        ({"data": "MARKS"}, r"task marks, question 1: .*the text must have <Video></Video> once"),
        ({"data": "NONE"}, r"none of the 1 videos can be read:\n"),
        ({"max_new_tokens": 1000}, "task motion, question 1 has .* of which max_new_tokens 1000 are for the answer"),
        ({"root": "/x"}, "root is given for each source in"),
        ({"crops": 3}, "task choice does not use crops: leave it at 0"),
        ({"average": "logits"}, "task choice does not use average"),
        ({"language_model": "PLAIN"}, "the tokenizer of the run has no chat template, so no question can be asked"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str, pairs: Path, tasks: Path, run: Path, tmp_path: Path) -> None:
    good = str(pairs.parent / "video0.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    lists: dict[str, list[dict[str, Any]]] = {
        "EMPTY": [],
        "TWICE": [question(good, 1, "red", "blue", "red")],
        "OTHER": [question(good, 0, "red", "blue") | {"answer": "green"}],
        "LONG": [question(good, 0, "red", "blue"), question(good, 0, "red " * 1000, "blue")],
        "MARKS": [question(good, 0, "red", "blue", question="<Video></Video><Video></Video>")],
        "NONE": [question("broken.mp4", 0, "red", "blue")],
    }
    for name, entries in lists.items():
        (tmp_path / f"{name.lower()}.json").write_text(json.dumps(entries))
    paths = {name: tmp_path / f"{name.lower()}.json" for name in lists} | {
        "FOLDER": tmp_path,
        "PLAIN": tmp_path / "plain",
    }
    if changes.get("language_model") == "PLAIN":
        shutil.copytree(run.parent / "language", tmp_path / "plain")
        tokenizer(None).save_pretrained(tmp_path / "plain")
        (tmp_path / "plain" / "chat_template.jinja").unlink(missing_ok=True)
    given = {name: str(paths[value]) if value in paths else value for name, value in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate_choices(evaluation(tasks, run, **given))


def test_damaged_weights_are_no_figures(tasks: Path, run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from videomae_fast.recipes.start import last_checkpoint

    moved = shutil.copytree(last_checkpoint(run), tmp_path / "run")
    state = load_file(moved / "model.safetensors")
    state = {name: t.fill_(math.nan) if name.startswith("connector.") else t for name, t in state.items()}
    save_file(state, moved / "model.safetensors")
    with pytest.raises(ValueError, match="likelihoods of the answers to 5 questions are NaN or infinite"):
        evaluate_choices(evaluation(tasks, moved))
