"""The teachers of an alignment: which of their blocks teach which of the student's, and what they see in a batch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videomae_kernels import CroppedClips

from .._text import printable
from ..engine.precision import resolve_precision
from ..interop import read_guide, read_video_teacher
from ..interop.huggingface.vision import HuggingFaceGuide
from ..models import AlignmentHeads, InternVideo2Config, TeacherRows
from ..models.frozen_teacher import Teacher, find_nonfinite, last_layers, observe_and_draw
from ..models.guides import InternVideo2Guide
from ..models.memory_budget import AlignmentTokens
from ..models.video_teacher import VideoMAETeacher
from .align_options import AlignMasks, TeacherOptions
from .start import last_checkpoint
from .teacher import tensors_digest

_NO_SETTINGS = ("architectures", "dtype", "torch_dtype", "transformers_version")  # of a config.json of transformers
PUBLISHED = {"image_layers": 6, "video_layers": 4}


def teaching_layers(
    name: str, count: int, student_depth: int, teacher_depth: int, interval: float = 1.0
) -> tuple[int, ...]:
    """The blocks of a teacher that teach the student's last blocks, one each; see `last_layers`.

    Args:
        name: of the option that gives `count`: "image_layers" or "video_layers".
        count: their number; 0 for the published one, or as many as both models have blocks for.
        student_depth: blocks of the student.
        teacher_depth: blocks of the teacher.
        interval: blocks of the teacher from one to the next, on average, at least 1.

    Returns:
        Their numbers, ascending.

    Raises:
        ValueError: a model has too few blocks.
    """
    most = 1
    while most < student_depth and int(most * interval) < teacher_depth:
        most += 1
    if count > most:
        steps = f" of which one teaches in {interval:g}" if interval != 1 else ""
        raise ValueError(
            f"{name} must be at most {most}, got {count}: the student has {student_depth} blocks, the teacher "
            f"{teacher_depth}{steps}"
        )
    return last_layers(teacher_depth, count or min(most, PUBLISHED[name]), interval)


class Lesson(NamedTuple):
    """What the teachers hand over for B clips.

    Attributes:
        visible: (B·M, K) int64 tokens that the student sees.
        image: rows of the guiding teacher; None without one.
        video: rows of the video teacher; None without one.
    """

    visible: Tensor
    image: TeacherRows | None
    video: TeacherRows | None


class Teachers:
    """The teachers of a run, and the masks that they guide. At least one is given.

    Args:
        options: what is learned from them.
        masks: how masks are drawn.
        seed: of the run.
        student: the student, whose last blocks learn, as many as a teacher has layers.
        guide: `image_teacher` or `distil_teacher`; None: masks are uniform in each frame.
        video: `video_teacher`, or None.

    Attributes:
        every: frames of a clip from one that the student sees to the next: the video teacher's tubelet over its own.
        heads: the heads that the student needs.
        weights: of each loss, by its name in `AlignmentLosses`.

    Raises:
        ValueError: there is no teacher, a teacher's grid is not the student's, or the student's tubelets do not divide
            those of the video teacher.
    """

    def __init__(
        self,
        options: TeacherOptions,
        masks: AlignMasks,
        seed: int,
        student: InternVideo2Config,
        *,
        guide: InternVideo2Guide | HuggingFaceGuide | None,
        video: VideoMAETeacher | None,
    ) -> None:
        if guide is None and video is None:
            raise ValueError("there is no teacher: name one with image_teacher, video_teacher or distil_teacher")
        for teacher in (guide, video):
            if teacher is not None:
                teacher.check_grid(student.grid)
        self.guide, self.video, self.masks, self.seed, self.grid = guide, video, masks, seed, student.grid
        self.every, self.tubelet = _every(student, video), student.tubelet_size
        self.per = "clip" if options.distil_teacher else "frame"
        self.heads = AlignmentHeads(
            image_layers=_last(student, guide),
            image_dim=1 if guide is None else guide.dim,
            image_mlp=bool(options.distil_teacher),
            pooled_dim=None if guide is None else guide.pooled_dim,
            video_layers=_last(student, video),
            video_dim=1 if video is None else video.dim,
        )
        losses = {"image": guide is not None, "pooled": self.heads.pooled_dim is not None, "video": video is not None}
        self.weights = {name: getattr(options, f"{name}_weight") for name, has_loss in losses.items() if has_loss}

    def __call__(self, clips: CroppedClips, sample: Tensor) -> Lesson:
        """Show clips to the teachers.

        Args:
            clips: B clips of all frames.
            sample: (B,) int64 sample numbers, on the device of the clips.

        Returns:
            The visible tokens, and the teachers' rows there.

        Raises:
            FloatingPointError: on a CPU, the guide's attention is NaN or infinite; the message names its layers.
            ValueError: the guide's attention leaves too few tokens to draw from.
        """
        if self.guide is None:
            even = torch.ones((), device=sample.device).expand(len(sample), *self.grid)
            visible, image = self._draw(even, sample), None
        else:
            seen = clips.every(self.every * self.tubelet)
            visible, image = observe_and_draw(self.guide, seen, lambda found, part: self._draw(found, sample[part]))
        return Lesson(visible, image, None if self.video is None else self.video.rows(clips, visible))

    def _draw(self, weights: Tensor, sample: Tensor) -> Tensor:
        try:
            return self.masks.visible(weights, sample, self.per, self.seed)
        except ValueError as error:
            if self.guide is None:
                raise
            raise ValueError(f"the attention of teacher {self.guide.name} guides no masks: {error}") from error

    def find_nonfinite(self, clips: CroppedClips, sample: Tensor) -> str:
        """Which teacher's rows are not finite. The host waits for the device.

        Args:
            clips: as in `__call__`.
            sample: as in `__call__`.

        Returns:
            A phrase that names the teacher and the layers; "" if all are finite.
        """
        try:
            lesson = self(clips, sample)
        except FloatingPointError as error:
            return str(error)
        found = ((self.guide, lesson.image), (self.video, lesson.video))
        phrases = [find_nonfinite(teacher, rows) for teacher, rows in found if teacher is not None and rows is not None]
        return "; ".join(filter(None, phrases))

    def tokens(self) -> AlignmentTokens:
        """What a step computes for each clip."""
        even = torch.ones(()).expand(1, *self.grid)
        visible = self.masks.visible(even, torch.zeros(1, dtype=torch.int64), self.per, seed=0)
        return AlignmentTokens(self.heads, visible.shape[1], self.masks.masks_per_clip)

    def weight_bytes(self) -> int:
        """The memory that the weights of all teachers take."""
        models = [teacher.model for teacher in (self.guide, self.video) if teacher is not None]
        return sum(tensor.nbytes for model in models for tensor in (*model.parameters(), *model.buffers()))

    def digest(self) -> str:
        """A digest of the weights of all teachers, and of what else decides their rows: a run continues with these."""
        parts: dict[str, Tensor] = {}
        facts = [getattr(self.guide, "pixel_stats", None)]
        for name, teacher in (("guide", self.guide), ("video", self.video)):
            if teacher is not None:
                parts |= {f"{name}.{key}": tensor for key, tensor in teacher.model.state_dict().items()}
                facts.append(_settings(teacher))
        return tensors_digest(parts, facts)


def _settings(teacher: InternVideo2Guide | HuggingFaceGuide | VideoMAETeacher) -> list[tuple[str, Any]]:
    """What decides a teacher's rows beside its weights: heads and eps; of transformers, what its config.json says."""
    config: Any = teacher.model.config
    if isinstance(teacher, HuggingFaceGuide):
        given = config.to_diff_dict()
        return sorted((name, given[name]) for name in given if not name.startswith("_") and name not in _NO_SETTINGS)
    return [(name, getattr(config, name, None)) for name in ("encoder_heads", "pool_heads", "norm_eps")]


def _every(student: InternVideo2Config, video: VideoMAETeacher | None) -> int:
    """Frames of a clip from one that the student sees to the next."""
    if video is None:
        return 1
    own, theirs = student.tubelet_size, video.model.config.tubelet_size
    if theirs % own:
        raise ValueError(f"tubelet_size must divide the {theirs} frames of a token of {video.name}, got {own}")
    return theirs // own


def _last(student: InternVideo2Config, teacher: Teacher | None) -> tuple[int, ...]:
    """The student's last blocks, one for each layer of the teacher."""
    count = 0 if teacher is None else len(teacher.layers)
    return tuple(range(student.encoder_depth - count, student.encoder_depth))


def read_teachers(
    options: TeacherOptions,
    masks: AlignMasks,
    student: InternVideo2Config,
    *,
    seed: int,
    device: torch.device,
    precision: str,
    say: Callable[[str], None],
) -> Teachers:
    """Read the teachers of a run, and say which of their blocks teach which of the student's.

    Args:
        options: names the teachers.
        masks: how masks are drawn.
        student: the student.
        seed: of the run.
        device: where the teachers run.
        precision: of the run, one of PRECISIONS: with bf16 their weights are bfloat16, else float32.
        say: prints a line.

    Returns:
        The teachers.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: no teacher is named; one cannot be read, or is of another kind; its grid is not the student's; or
            a model has too few blocks.
    """
    frames, depth = student.grid[0], student.encoder_depth
    dtype = torch.bfloat16 if resolve_precision(precision) == "bf16" else torch.float32
    shared: dict[str, Any] = {"image_size": student.image_size, "dtype": dtype, "device": device}
    shared |= {"attention": student.attention, "elementwise": student.elementwise}
    guide = video = None
    if path := options.distil_teacher or options.image_teacher:
        interval = options.distil_interval if options.distil_teacher else 1.0
        layers = partial(teaching_layers, "image_layers", options.image_layers, depth, interval=interval)
        source = last_checkpoint(Path(path))
        guide = read_guide(source, num_frames=frames, layers=layers, **shared)
        guide.name = path
        _check_kind(guide, source, frames, bool(options.distil_teacher))
    if options.video_teacher:
        layers = partial(teaching_layers, "video_layers", options.video_layers, depth)
        source = last_checkpoint(Path(options.video_teacher))
        video = read_video_teacher(source, tubelets=frames, layers=layers, **shared)
        video.name = options.video_teacher
    teachers = Teachers(options, masks, seed, student, guide=guide, video=video)
    if guide is None:
        say("no teacher guides the masks: they are uniform in each frame")
    for teacher, learners in ((guide, teachers.heads.image_layers), (video, teachers.heads.video_layers)):
        if teacher is not None:
            pairs = ", ".join(f"{block} teaches {own}" for block, own in zip(teacher.layers, learners, strict=True))
            say(f"teacher {printable(teacher.name)}: of its blocks, {pairs} of the student")
    return teachers


def _check_kind(guide: InternVideo2Guide | HuggingFaceGuide, path: Path, frames: int, distils: bool) -> None:
    """Make sure that a distillation has a teacher of whole clips, and an alignment one that sees each frame alone."""
    sees_clips = isinstance(guide, InternVideo2Guide) and guide.views < frames
    if distils and not isinstance(guide, InternVideo2Guide):
        raise ValueError(f"distil_teacher {path} is no InternVideo2, but {type(guide.model).__name__}")
    if frames > 1 and distils != sees_clips:
        wrong, right = ("distil_teacher", "image_teacher") if distils else ("image_teacher", "distil_teacher")
        sees = "sees each frame alone" if distils else "sees whole clips"
        raise ValueError(f"{wrong} {path} {sees}: name it with {right}")
