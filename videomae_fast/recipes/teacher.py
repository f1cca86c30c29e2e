"""The teacher of a distillation: a frozen classifier of any size, read from any layout."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .._text import printable
from ..engine.precision import resolve_precision
from ..interop import CheckpointError, Classifier, read_classifier
from ..models.config import ClipConfig
from ..models.encoder import Clip
from ..models.linear import Linear, linear
from .start import last_checkpoint, with_classes


def read_teacher(
    teacher: str,
    teacher_classes: str,
    class_names: Sequence[str],
    student: ClipConfig,
    say: Callable[[str], None],
) -> Classifier:
    """Read the classifier that a student learns from, with a head of the student's classes.

    Args:
        teacher: weights of a classifier, published or Hugging Face's, or a run.
        teacher_classes: a file that tells the classes of its head, or the rows of ours; "" for the names beside its
            weights, or, without names, for a head of our classes in our order.
        class_names: the student's classes.
        student: the student's configuration. Its clips are the teacher's; its patches need not be.
        say: prints a line: the rows of a head without names are taken as ours.

    Returns:
        The classifier, with the rows of `class_names`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: `teacher` is empty or no classifier, its clips are of another size, or its head has no row of a
            class.
    """
    if not teacher:
        raise ValueError("teacher is empty: name the weights of a classifier, or a run")
    path = last_checkpoint(Path(teacher))
    classifier = read_classifier(path)
    clip, ours = ((each.num_frames, *each.image_size) for each in (classifier.config, student))
    if clip != ours:
        raise ValueError(
            f"teacher {path} takes clips of {_times(clip)} ({classifier.origin}), the student {_times(ours)}: both see "
            "the same pixels, so set num_frames and image_size to the teacher's"
        )
    count, names = classifier.num_classes, classifier.class_names
    if not teacher_classes and names in (None, tuple(map(str, range(count)))):
        if count != len(class_names):
            raise ValueError(
                f"teacher {path} has {count} classes without names, the student {len(class_names)}: name the teacher's "
                "with teacher_classes"
            )
        say(f"the {count} classes of teacher {printable(path)} have no names: they are taken as ours, in our order")
    try:
        return with_classes(classifier, class_names, teacher_classes)
    except CheckpointError:
        raise
    except ValueError as error:
        raise ValueError(f"teacher {path} does not have the student's classes: {error}") from error


def weights_digest(classifier: Classifier) -> str:
    """A digest of all that decides the logits of a classifier for given pixels, but for the rounding of its arithmetic.

    Args:
        classifier: as it was read.

    Returns:
        16 hexadecimal digits: others if a weight, its dtype, a class's row, the heads, or the positions differ.
    """
    config = classifier.config
    facts = (classifier.positions, classifier.trained_clip, config.encoder_heads, config.num_frames, config.image_size)
    return tensors_digest(classifier.state, facts)


def tensors_digest(tensors: Mapping[str, Tensor], facts: object = "") -> str:
    """A digest of tensors and of what else counts.

    Args:
        tensors: by name, on any device.
        facts: whatever has a `repr` that tells it apart.

    Returns:
        16 hexadecimal digits: others if a name, dtype, shape or value differs, or the facts do.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class Teacher:
    """A classifier that computes logits and nothing else: in evaluation mode, without gradients, on all tokens.

    Its blocks run in the precision of the run, by autocast as in training and evaluation. The weights of linear maps
    are kept in the autocast dtype, to which autocast would cast them in every call, with the same result. The head runs
    in float32: the logits of a bf16 head have steps of 1/16 where they are above 8.

    Args:
        classifier: as `read_teacher` returns it.
        device: of the run.
        precision: of the run, one of PRECISIONS.
        attention: attention backend.
        elementwise: what computes norms, residual additions and GELUs.
        compile: whether torch.compile compiles it.

    Attributes:
        model: the classifier, of any family.
    """

    def __init__(
        self,
        classifier: Classifier,
        device: torch.device,
        *,
        precision: str = "auto",
        attention: str = "sdpa",
        elementwise: str = "triton",
        compile: bool = False,
    ) -> None:
        with torch.random.fork_rng(devices=[]):  # a run with cached logits builds no teacher, and draws alike
            model = classifier.build(attention=attention, elementwise=elementwise)
        self.model = model.requires_grad_(False).eval()
        self.half = resolve_precision(precision) == "bf16"
        if self.half:
            for module in model.modules():
                if isinstance(module, Linear) and module is not model.head:
                    module.weight.data = module.weight.data.bfloat16()
        self.model.to(device)
        self._features = torch.compile(model.features, fullgraph=True) if compile else model.features

    @torch.no_grad()
    def __call__(self, clips: Clip) -> Tensor:
        """Logits of clips.

        Args:
            clips: as the classifier's `forward` takes them, on the device of the teacher.

        Returns:
            (B, C) float16, as a cache holds them: steps of 1/128 above 8.

        Raises:
            ValueError: the clips are of another size.
        """
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False):
            features = self._features(clips)
        return linear(features.float(), self.model.head).half()


def _times(clip: Sequence[int]) -> str:
    return "x".join(map(str, clip))
