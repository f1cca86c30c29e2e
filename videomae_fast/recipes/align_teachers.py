"""The teachers of an alignment: which of their blocks teach which of the student's, and what they see in a batch."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from videomae_kernels import CroppedClips

from .._text import printable
from ..models import AlignmentHeads, InternVideo2Config, TeacherRows
from ..models.frozen_teacher import Guide, Teacher, find_nonfinite, last_layers, observe_and_draw
from .align_options import STUDENTS, AlignData, AlignMasks, StudentOptions, TeacherOptions
from .start import last_checkpoint
from .teacher import tensors_digest

PUBLISHED_LAYERS = {"image": 6, "video": 4}


def paired_layers(
    name: str, student_depth: int, teacher_depth: int, count: int, interval: float = 1.0
) -> dict[int, int]:
    """The blocks of the student that learn, each with the block of the teacher that teaches it.

        L − 1 − j learns from L_T − 1 − ⌊j · interval⌋,    j = 0, …, count − 1

    Args:
        name: "image" or "video", which of the two teachers it is.
        student_depth: L.
        teacher_depth: L_T.
        count: pairs; 0 for the published number, or as many as both models have blocks for.
        interval: blocks of the teacher from one pair to the next, on average, at least 1.

    Returns:
        {block of the student: block of the teacher}, ascending.

    Raises:
        ValueError: a model has too few blocks.
    """
    most = 1
    while most < student_depth and int(most * interval) < teacher_depth:
        most += 1
    if count > most:
        steps = f" at intervals of {interval:g}" if interval != 1 else ""
        raise ValueError(
            f"{name}_layers must be at most {most}, got {count}: the student has {student_depth} blocks, the teacher "
            f"{teacher_depth}{steps}"
        )
    count = count or min(most, PUBLISHED_LAYERS[name])
    learners, blocks = range(student_depth - count, student_depth), last_layers(teacher_depth, count, interval)
    return dict(zip(learners, blocks, strict=True))


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
    """The teachers of a run, and the masks that they guide.

    Args:
        options: what is learned from them.
        masks: how masks are drawn.
        seed: of the run.
        grid: (T', H', W') tokens of the student.
        every: frames of a clip from one that the student and the guide see to the next.
        guide: `image_teacher` or `distil_teacher`; None: masks are uniform in each frame.
        guided: of the student, the blocks that learn from the guide.
        video: `video_teacher`, or None.
        watching: of the student, the blocks that learn from the video teacher.

    Attributes:
        heads: the heads that the student needs.
        weights: of each loss, by its name in `AlignmentLosses`.

    Raises:
        ValueError: a teacher's grid is not the student's.
    """

    def __init__(
        self,
        options: TeacherOptions,
        masks: AlignMasks,
        seed: int,
        grid: tuple[int, int, int],
        every: int,
        *,
        guide: Guide | None,
        guided: tuple[int, ...] = (),
        video: Teacher | None,
        watching: tuple[int, ...] = (),
    ) -> None:
        for teacher in (guide, video):
            if teacher is not None:
                teacher.check_grid(grid)
        self.guide, self.video, self.masks, self.seed, self.grid, self.every = guide, video, masks, seed, grid, every
        self.per = "clip" if options.distil_teacher else "frame"
        pooled_dim = None if guide is None else guide.pooled_dim
        self.heads = AlignmentHeads(
            image_layers=guided,
            image_dim=1 if guide is None else guide.dim,
            image_mlp=bool(options.distil_teacher),
            pooled_dim=pooled_dim,
            video_layers=watching,
            video_dim=1 if video is None else video.dim,
        )
        weights = {
            "image": options.image_weight if guide is not None else None,
            "pooled": options.pooled_weight if pooled_dim is not None else None,
            "video": options.video_weight if video is not None else None,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight is not None}

    def __call__(self, clips: CroppedClips, sample: Tensor) -> Lesson:
        """Show clips to the teachers.

        Args:
            clips: B clips of all frames.
            sample: (B,) int64 sample numbers, on the device of the clips.

        Returns:
            The visible tokens, and the teachers' rows there.

        Raises:
            ValueError: the guide's attention is negative, NaN or infinite, or leaves too few tokens to draw from.
        """
        if self.guide is None:
            even = torch.ones((), device=sample.device).expand(len(sample), *self.grid)
            visible, image = self._draw(even, sample), None
        else:
            seen = clips.every(self.every)
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
        """Which teacher's attention or rows are not finite. The host waits for the device.

        Args:
            clips: as in `__call__`.
            sample: as in `__call__`.

        Returns:
            A phrase that names the teacher and the layers; "" if all are finite.
        """
        lesson = self(clips, sample)
        found = ((self.guide, lesson.image), (self.video, lesson.video))
        phrases = [find_nonfinite(teacher, rows) for teacher, rows in found if teacher is not None and rows is not None]
        return "; ".join(filter(None, phrases))

    def digest(self) -> str:
        """A digest of the weights of all teachers, with which alone a run continues."""
        parts = {}
        for name, teacher in (("guide", self.guide), ("video", self.video)):
            if teacher is not None:
                parts |= {f"{name}.{key}": tensor for key, tensor in teacher.model.state_dict().items()}
        return tensors_digest(parts)


def read_teachers(
    options: TeacherOptions,
    data: AlignData,
    masks: AlignMasks,
    model: StudentOptions,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    say: Callable[[str], None],
) -> tuple[Teachers, InternVideo2Config]:
    """Read the teachers of a run, and find out what student they can teach.

    Args:
        options: names the teachers.
        data: the clips.
        masks: how masks are drawn.
        model: the student.
        seed: of the run.
        device: where the teachers run.
        dtype: of their weights.
        say: prints a line: which blocks teach which.

    Returns:
        The teachers, and the configuration of the student.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: no teacher is named; one cannot be read, or is of another kind; its grid is not the student's; or
            there are too few blocks.
    """
    guide_path = options.distil_teacher or options.image_teacher
    if not guide_path and not options.video_teacher:
        raise ValueError("there is no teacher: name one with image_teacher, video_teacher or distil_teacher")
    depth, size = STUDENTS[model.model].encoder_depth, (data.image_size, data.image_size)
    pairs: dict[str, dict[int, int]] = {"image": {}, "video": {}}

    def choose(name: str, count: int, interval: float = 1.0) -> Callable[[int], tuple[int, ...]]:
        def blocks(teacher_depth: int) -> tuple[int, ...]:
            pairs[name] = paired_layers(name, depth, teacher_depth, count, interval)
            return tuple(pairs[name].values())

        return blocks

    guide = video = None
    every = 1
    if options.video_teacher:
        video = _video(
            options.video_teacher, data.num_frames, size, choose("video", options.video_layers), dtype, device
        )
        every = data.num_frames // video.grid[0]
    student = model.student(data, every)
    if guide_path:
        interval = options.distil_interval if options.distil_teacher else 1.0
        blocks = choose("image", options.image_layers, interval)
        guide = _guide(guide_path, student.num_frames, size, blocks, dtype, device)
    teachers = Teachers(
        options,
        masks,
        seed,
        student.grid,
        every,
        guide=guide,
        guided=tuple(pairs["image"]),
        video=video,
        watching=tuple(pairs["video"]),
    )
    for teacher, name in ((guide, "image"), (video, "video")):
        if teacher is not None:
            taught = ", ".join(f"{block} teaches {own}" for own, block in pairs[name].items())
            say(f"teacher {printable(teacher.name)}: of its blocks, {taught} of the student")
    if guide is None:
        say("no teacher guides the masks: they are uniform in each frame")
    return teachers, student


def _video(path, num_frames, size, choose, dtype, device):  # STANDIN
    from ..interop import read_feature_model
    from ..models.video_teacher import VideoMAETeacher

    encoder = read_feature_model(last_checkpoint(Path(path)), num_frames=num_frames, image_size=size).to(device)
    return VideoMAETeacher(encoder, choose(encoder.config.encoder_depth), dtype=dtype, name=path)


def _guide(path, num_frames, size, choose, dtype, device):  # STANDIN
    from ..interop.checkpoint import read_weights
    from ..models import InternVideo2
    from ..models.guides import InternVideo2Guide
    from dataclasses import replace

    state = read_weights(path)
    config = replace(STUDENTS["internvideo2-tiny"], num_frames=num_frames, image_size=size, encoder_depth=4, patch_size=16)
    model = InternVideo2(config)
    model.load_state_dict(state)
    return InternVideo2Guide(model.to(device), choose(config.encoder_depth), dtype=dtype, name=path)
