"""Multiple-choice questions answered by a run of `caption`: by what it writes, and by how likely each answer is.

File structure:
    evaluate_choices   ask a captioner all questions of one task or of several
    ChoiceResult       what it answers, and the files of it
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..data import CaptionedEntry, Choice, ChoiceVideos, MissingVideo, Mixture, VideoSource, read_choice_tasks
from ..data.sources.choices import CHOICES_HELP
from ..models.encoder import Clip
from .choice_scores import choice_scores, chosen_option
from .describe import Describer
from .evaluate import EvaluateConfig, missing_lines, write_summary
from .evaluate_captioner import answers_about, captioner_of, place_of, write_lines


class Answer(NamedTuple):
    """What a captioner answers to a question.

    Attributes:
        text: what it writes.
        log_likelihood: of each candidate, as `VideoCaptioner.log_likelihood`.
    """

    text: str
    log_likelihood: tuple[float, ...]

    @property
    def likeliest(self) -> int:
        """Number of the likeliest candidate."""
        return max(range(len(self.log_likelihood)), key=self.log_likelihood.__getitem__)


class Answered(NamedTuple):
    """A question with its video and its answer."""

    task: str
    video: CaptionedEntry
    choice: Choice
    answer: Answer


@dataclass(frozen=True)
class ChoiceResult:
    """The answers to all questions whose videos can be read.

    Attributes:
        tasks: the number of questions of each task, in order.
        answered: the answers.
        missing: of each task the videos that cannot be read, one for each question about them.
        is_main_process: whether this process writes.
    """

    tasks: dict[str, int]
    answered: Sequence[Answered]
    missing: Mapping[str, Sequence[MissingVideo]]
    is_main_process: bool

    def figures(self) -> dict[str, Any]:
        """`choice_scores` of all questions and of each of "tasks", with "likelihood_accuracy"; means over tasks.

        "missing" counts questions whose videos cannot be read, which are in no other figure.
        """
        found = _figures(self.answered, sum(map(len, self.missing.values())))
        tasks = {
            name: _figures([each for each in self.answered if each.task == name], len(self.missing[name]))
            for name in self.tasks
        }
        asked = [task for task in tasks.values() if task["questions"]]
        means = {
            f"task_mean_{name}": sum(task[name] for task in asked) / len(asked)
            for name in ("accuracy", "likelihood_accuracy", "chance")
        }
        return found | means | {"tasks": tasks}

    def lines(self) -> list[str]:
        """What a user wants to know, as lines of text."""
        found = self.figures()
        lines = [_line(name, task) for name, task in found["tasks"].items()]
        if len(lines) > 1:
            means = {name: found[f"task_mean_{name}"] for name in ("accuracy", "likelihood_accuracy", "chance")}
            asked = sum(task["questions"] > 0 for task in found["tasks"].values())
            of = f"{asked} tasks" if asked == len(lines) else f"{asked} of {len(lines)} tasks"
            lines += [_line("all questions", found), _line(f"mean over {of}", means)]
        return lines + missing_lines(self._unread())

    def write(self, folder: Path) -> None:
        """Write metrics.json, answers.jsonl and, if videos are missing, missing.tsv.

        Args:
            folder: made if it does not exist.

        Raises:
            OSError: a file cannot be written.
        """
        write_summary(folder, self.figures(), self._unread())
        write_lines(folder / "answers.jsonl", map(_row, self.answered))

    def _unread(self) -> list[MissingVideo]:
        """Each video once."""
        return list({each.path: each for missing in self.missing.values() for each in missing}.values())


def _figures(answered: Sequence[Answered], missing: int) -> dict[str, float]:
    if not answered:
        return {"questions": 0, "missing": missing}
    choices = [each.choice for each in answered]
    right = sum(each.answer.likeliest == each.choice.answer for each in answered)
    scores = choice_scores(choices, [each.answer.text for each in answered])
    return scores | {"likelihood_accuracy": right / len(answered), "missing": missing}


def _line(name: str, found: Mapping[str, float]) -> str:
    if not found.get("questions", 1):
        return f"{name}: no video of its {found['missing']:g} questions can be read"
    unclear = f", {found['unclear']:.2%} of the answers unclear" if "unclear" in found else ""
    count = f", {found['questions']:g} questions" if "questions" in found else ""
    return (
        f"{name}: accuracy of answers {found['accuracy']:.2%}, of likelihoods {found['likelihood_accuracy']:.2%}, "
        f"chance {found['chance']:.2%}{unclear}{count}"
    )


def _row(each: Answered) -> dict[str, Any]:
    """A line of answers.jsonl; options are in words."""
    options, answer = each.choice.candidates, each.answer
    chosen = chosen_option(answer.text, options)
    return {
        "task": each.task,
        **place_of(each.video),
        "question": each.choice.question,
        "candidates": options,
        "answer": options[each.choice.answer],
        "text": answer.text,
        "chosen": None if chosen is None else options[chosen],
        "likeliest": options[answer.likeliest],
        "log_likelihood": answer.log_likelihood,
    }


@torch.no_grad()
def evaluate_choices(config: EvaluateConfig) -> ChoiceResult:
    """Ask a captioner multiple-choice questions about videos and images.

    Each question lists its options (`Choice.messages`), and is answered twice:

    * by what the captioner writes, the likeliest token each time; `chosen_option` finds the option that it names;
    * by the option whose "(letter) words" it is most likely to answer, as `VideoCaptioner.log_likelihood` says. This
      needs no words to be understood, and every question has an answer.

    Args:
        config: for example `EvaluateConfig.from_options(task="choice", data="mvbench.json", init="runs/captioner")`.

    Returns:
        The answers, the same in every process; for any number of processes, to rounding.

    Raises:
        FileNotFoundError: the run or a list does not exist.
        ValueError: `init` is no run of `caption`, its tokenizer has no chat template, questions cannot be read or are
            too long, no video can be read, or likelihoods are not finite.
        ImportError: transformers or, for adapters, peft is missing.
        ChildProcessError: a data-loading process died.

    References:
        MVBench, arXiv 2311.17005: questions, and accuracy by what is written. Brown et al., Language Models are
        Few-Shot Learners, arXiv 2005.14165, section 2.4: likelihoods.
    """
    describer = captioner_of(config, CHOICES_HELP)
    if not describer.texts.has_chat:
        raise ValueError(
            "the tokenizer of the run has no chat template, so no question can be asked: task choice needs a run with "
            "the language model of an instruction model"
        )
    tasks = read_choice_tasks(config.views.data, config.views.root or None)
    max_new_tokens = config.evaluation.max_new_tokens
    _check_lengths(describer, tasks, max_new_tokens)
    named = [(name, choice) for name, task in tasks.items() for choice in task.choices]
    videos = Mixture([VideoSource(task.videos) for task in tasks.values()])

    def answer(clips: Clip, numbers: Sequence[int], image: bool) -> list[Answer]:
        asked = [named[number][1] for number in numbers]
        questions = describer.texts.encode_talks([choice.messages() for choice in asked], generation=True)
        texts = describer.answers(clips, questions, max_new_tokens, image=image)
        likely = _likelihoods(describer, clips, asked, image)
        return [Answer(*pair) for pair in zip(texts, likely, strict=True)]

    found, missing = answers_about(describer, videos, config, answer)
    if bad := sum(not all(map(isfinite, each.log_likelihood)) for each in found.values()):
        raise ValueError(
            f"likelihoods of the answers to {bad} questions are NaN or infinite: the weights are damaged, or too large "
            f"for precision {config.evaluation.precision}"
        )
    return ChoiceResult(
        {name: len(task.choices) for name, task in tasks.items()},
        [Answered(*named[number][:1], videos.captioned(number), named[number][1], found[number]) for number in found],
        {name: [each for each in missing if named[each.index][0] == name] for name in tasks},
        describer.accelerator.is_main_process,
    )


def _told(choice: Choice) -> list[list[dict[str, str]]]:
    """The question with each of its options as the answer."""
    options = map(choice.lettered, range(len(choice.candidates)))
    return [[*choice.messages(), {"role": "assistant", "content": option}] for option in options]


def _likelihoods(describer: Describer, clips: Clip, asked: Sequence[Choice], image: bool) -> list[tuple[float, ...]]:
    """Of each question the log-likelihood of each option."""
    device, counts = describer.accelerator.device, [len(choice.candidates) for choice in asked]
    tokens = describer.texts.encode_talks([talk for choice in asked for talk in _told(choice)]).to(device)
    clip_of = torch.arange(len(asked)).repeat_interleave(torch.tensor(counts)).to(device)
    with describer.accelerator.autocast():
        found = describer.model.log_likelihood(clips, tokens, clip_of, describer.visible(len(asked), image))
    return [tuple(part.tolist()) for part in found.cpu().split(counts)]


def _check_lengths(describer: Describer, tasks: Mapping[str, ChoiceVideos], max_new_tokens: int) -> None:
    """Make sure, before any video is read, that all questions can be asked."""
    most = describer.model.max_length
    for name, task in tasks.items():
        for number, choice in enumerate(task.choices, 1):
            try:
                asked = describer.texts.encode_talks([choice.messages()], generation=True).ids.shape[1]
                told = describer.texts.encode_talks(_told(choice)).ids.shape[1]
            except ValueError as error:
                raise ValueError(f"task {name}, question {number}: {error}") from error
            if max(asked + max_new_tokens, told) > most:
                raise ValueError(
                    f"task {name}, question {number} has {asked} tokens, {told} with its longest option, and the "
                    f"language model has {most} beside the video, of which max_new_tokens {max_new_tokens} are for the "
                    "answer"
                )
