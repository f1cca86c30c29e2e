"""Start a model from weights of any known layout."""

import os
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import cast

import torch
from torch import Tensor, nn

from ..models.classify import VideoMAEForClassification
from ..models.config import ClipConfig
from ..models.families import SIZES, VideoClassifier, family_of, family_of_weights
from ..models.internvideo2 import InternVideo2, InternVideo2ForAlignment
from ..models.internvideo2_classify import InternVideo2ForClassification
from ..models.positions import interpolate_positions
from .checkpoint import CheckpointError, State, key_problems, load_weights, read_weights, without_encoder
from .classifier import check_files_of_transformers, classifier_state, is_pretraining
from .huggingface.weights import from_huggingface, is_huggingface
from .internvideo2 import ALIGNMENT, CLASSIFIER, fit_positions, internvideo2_state
from .lora import merged_lora
from .report import init_report
from .settings import clip_beside, settings_beside
from .video_tower import VIDEO, names_below

_HEADS = {"classifier.weight", "head.weight", "encoder.head.weight"}  # names that only classifiers have
Rows = Sequence[int] | Callable[[int], Sequence[int]] | None
_HEAD = ("head.weight", "head.bias")
# Names, or their beginnings, that a pre-trained model has, and a classifier has not.
_PRETRAINING = ("decoder.", "encoder_to_decoder.", "mask_token", "encoder.norm.", "norm.")
_TOWER = ("image_embed.", "clip_projector.")  # likewise a video tower of VideoMAE's blocks
_IMAGES = ("img_pos_embed", "clip_img_pos_embed")  # and one of InternVideo2


def init_weights(model: nn.Module, path: str | os.PathLike[str], strict: bool = True, *, rows: Rows = None) -> str:
    """Initialise a model with weights of any known layout; the model stays untouched if they do not fit.

    Known layouts are the published one (`.pth` of the release, `.safetensors`, a training run's checkpoint folder or
    its `model.safetensors`) and Hugging Face's (a folder of `save_pretrained`, `model.safetensors`,
    `pytorch_model.bin`), in any bias layout.

    A `VideoMAEForClassification` also starts from a pre-training checkpoint, by the published rules: patch embedding
    and blocks are kept; `fc_norm` and `head` are new, and stay as they are; the encoder's last norm, the mask token and
    the decoder are not used. Of another classifier, `fc_norm` is kept, and its head if it has as many classes, or by
    `rows`; otherwise the head is new.

    A classifier also starts from the video tower of a run of `contrast` or `caption`: blocks and patch embedding of a
    `VideoTransformer`, whose learned positions are not used, because positions of a `VideoMAEForClassification` are
    fixed: the report tells how far they are from these. Of an `InternVideo2Tower` all is used but positions of images.

    An `InternVideo2` of any kind starts from published weights of stage 1, of its distillation or of fine-tuning, or
    from those of a run. Position tables of clips of another size are interpolated, linearly over time and bicubically
    over space, as the report tells; without a `config.json` beside the weights their clips are taken to be 224x224
    pixels. A classifier keeps encoder and attention pool of an aligned student, whose heads are not used.

    Args:
        model: a model of this library; its tensors keep their dtype and device, so float16 weights are cast.
        path: a file of weights, or a folder that holds one.
        strict: whether the file must hold every other tensor of the model and no other. Shapes must always be equal.
        rows: for a classifier: for each of its classes the row of the file's head (see `head_rows`),
            or a function that makes this list from the number of rows of the file's head. An empty list leaves the head
            of the model new. None takes the head as it is.

    Returns:
        A report of the tensors that are new or missing in the file, which stay as they were, and of the tensors in the
        file that are not used; "" if there are none.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read; it is of another family of models; shapes differ; no name is the
            model's; a classifier is to initialise a
            pre-training model, and `strict` is set; the `config.json` of transformers beside the weights is of another
            model; or, if `strict`, names are missing or unexpected.
        ValueError: `rows` is given for another model, is not one row for each class, or names a row that the head of
            the file does not have.

    Warns:
        UserWarning: the `preprocessor_config.json` beside weights of transformers normalises by other numbers than
            ImageNet's.

    References:
        run_class_finetuning.py (`--finetune`) of OpenGVLab/VideoMAEv2@29eab1e.
    """
    if rows is not None and not isinstance(model, VideoClassifier):
        raise ValueError(f"rows are for a classifier, not for a {type(model).__name__}")
    state, beside = read_weights(path), list[str]()
    try:
        if isinstance(model, VideoClassifier) and any(name.startswith(VIDEO) for name in state):
            beside = sorted({name.partition(".")[0] for name in state if not name.startswith(VIDEO)})
            state = names_below(state, VIDEO)
        state = merged_lora(state, path)
        _check_family(cast(ClipConfig, model.config), state)
        if isinstance(model, InternVideo2):
            return _init_internvideo2(model, state, path, strict, rows, beside)
        if is_huggingface(state):
            _check_heads(cast(ClipConfig, model.config), path)
        if isinstance(model, VideoMAEForClassification):
            return _init_classifier(model, state, path, strict, rows, beside)
        state = _pretraining_names(state, strict)
        if not strict:
            _check_overlap(model, state)
        missing, unexpected = load_weights(model, state, strict)
    except CheckpointError as error:
        partly = "strict=False, or --init-partial, allows missing and unexpected names, not other shapes"
        allowed = f" ({partly})" if strict else ""
        raise CheckpointError(f"{str(path)!r} cannot initialise {type(model).__name__}: {error}{allowed}") from error
    return init_report(model, path, {"missing, left as they were": missing}, {"unexpected, not used": unexpected})


def _check_family(config: ClipConfig, state: State) -> None:
    """Weights of another family have other names and other mathematics, so that no part of them fits."""
    theirs, ours = family_of_weights(state), family_of(config)
    if theirs.own_names and theirs is not ours:
        sizes = ", ".join(name for name in SIZES if family_of(SIZES[name]) is theirs)
        raise CheckpointError(
            f"it holds weights of {theirs.name}, the model is of {ours.name} (sizes of {theirs.name}: {sizes})"
        )


def _pretraining_names(state: State, strict: bool) -> State:
    """The names of a pre-training model; of a classifier, which is an error if `strict`, those of its encoder."""
    is_classifier = not is_pretraining(state) and not _HEADS.isdisjoint(state)
    if strict and is_classifier:
        raise CheckpointError("it holds a classifier, and pre-training weights are needed")
    state = from_huggingface(state, strict) if is_huggingface(state) else state
    if not is_classifier:
        return state
    encoder = ("patch_embed.", "blocks.", "norm.")
    return {f"encoder.{name}" if name.startswith(encoder) else name: tensor for name, tensor in state.items()}


def _init_classifier(
    model: VideoMAEForClassification,
    state: State,
    path: str | os.PathLike[str],
    strict: bool,
    rows: Rows,
    beside: list[str],
) -> str:
    notes: dict[str, list[str]] = {}
    if beside:
        table = state.pop("pos_embed", None)
        notes = {} if table is None else {_table_note(model, table, path): ["pos_embed"]}
        beside = beside + [name for name in state if name.startswith(_TOWER)]
        state = {name: tensor for name, tensor in state.items() if not name.startswith(_TOWER)}
    state, unused = _classifier_names(state)
    state, why = _with_head(state, model.num_classes, rows)
    new = [name for name in CLASSIFIER if name not in state]
    return _init_kept(model, state, path, strict, new=new, why=why, unused=[*unused, *beside], theirs=notes)


def _table_note(model: VideoMAEForClassification, table: Tensor, path: str | os.PathLike[str]) -> str:
    """A phrase on a tower's learned positions, for clips of the model: how far they are from its fixed ones."""
    config, fixed = model.config, model.position.float()
    frames, size = clip_beside(path)
    clip = (frames or config.num_frames, *(size or config.image_size))
    grid = (clip[0] // config.patch[0], clip[1] // config.patch[1], clip[2] // config.patch[2])
    if table.shape != (1, prod(grid), config.encoder_dim):
        raise CheckpointError(
            f"its pos_embed is {tuple(table.shape)}, which are no clips of {clip} (frames, height, width) of tokens of "
            f"{config.patch}"
        )
    learned = interpolate_positions(table[0].float(), grid, config.grid).to(fixed.device)
    off = ((learned - fixed).norm() / fixed.norm()).item()
    return f"not used, {off:.1%} away from the fixed positions of the model"


def _init_internvideo2(
    model: InternVideo2, state: State, path: str | os.PathLike[str], strict: bool, rows: Rows, beside: list[str]
) -> str:
    state, interpolated = fit_positions(internvideo2_state(state), path, model.config)
    notes = {f"interpolated to {'x'.join(map(str, model.config.grid))} tokens": interpolated}
    if isinstance(model, InternVideo2ForAlignment):
        if strict and not _HEADS.isdisjoint(state):
            raise CheckpointError("it holds a classifier, and an aligned student is needed")
        return _init_kept(model, state, path, strict, notes=notes)
    dropped: tuple[str, ...] = (*ALIGNMENT, *_IMAGES)
    new, why = [], ""
    if isinstance(model, InternVideo2ForClassification):
        state, why = _with_head(state, model.num_classes, rows)
        pooled = any(name.startswith("clip_projector.") for name in state)
        parts = (
            CLASSIFIER if pooled else (*CLASSIFIER, "clip_projector.")
        )  # a student without a pooled head has no pool
        new = [name for name in model.state_dict() if name.startswith(parts) and name not in state]
    else:
        dropped = (*ALIGNMENT, *CLASSIFIER)
    unused = [name for name in state if name.startswith(dropped)]
    state = {name: tensor for name, tensor in state.items() if name not in unused}
    return _init_kept(model, state, path, strict, new=new, why=why, unused=[*unused, *beside], notes=notes)


def _init_kept(
    model: nn.Module,
    state: State,
    path: str | os.PathLike[str],
    strict: bool,
    *,
    new: Sequence[str] = (),
    why: str = "",
    unused: Sequence[str] = (),
    notes: Mapping[str, Sequence[str]] | None = None,
    theirs: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Load all but what may be new, and report: also why it is new, what of the file is not used, and other notes.

    `notes` are on names of the model, `theirs` on names of the file.
    """
    own = model.state_dict().keys()
    missing, unexpected = sorted(own - state.keys() - set(new)), sorted(state.keys() - own)
    if strict and (problems := key_problems(missing, unexpected)):
        raise CheckpointError("; ".join(problems))
    _check_overlap(model, state)
    load_weights(model, state, strict=False)
    left = {"new, left as they were" + why: new, "missing, left as they were": missing}
    notes = {what: [name for name in names if name in own] for what, names in (notes or {}).items()}
    return init_report(model, path, left, {"not used": [*unused, *unexpected], **notes, **(theirs or {})})


def _check_heads(config: ClipConfig, path: str | os.PathLike[str]) -> None:
    """Of weights of transformers: the files beside them, and the number of attention heads, which no shape tells."""
    check_files_of_transformers(path, config.encoder_dim)
    heads = settings_beside(path).get("num_attention_heads", config.encoder_heads)
    if heads != config.encoder_heads:
        raise CheckpointError(f"config.json has {heads} attention heads, the model {config.encoder_heads}")


def _classifier_names(state: State) -> tuple[State, list[str]]:
    """The weights with the names of a classifier, and the names of what a pre-trained model has besides."""
    if not is_pretraining(state) and not _HEADS.isdisjoint(state):
        return classifier_state(state), []
    state = from_huggingface(state, strict=False) if is_huggingface(state) else state
    unused = [name for name in state if name.startswith(_PRETRAINING)]
    return without_encoder({name: tensor for name, tensor in state.items() if name not in unused}), unused


def _with_head(state: State, classes: int, rows: Rows) -> tuple[State, str]:
    """The weights with the head that the model needs, or without a head; and why they have none."""
    if "head.weight" not in state:
        if rows is not None:
            raise ValueError(
                "rows choose from the head of a classifier, and the file has no head (for --init-classes, too)"
            )
        return state, ""
    found = len(state["head.weight"])
    rows = rows(found) if callable(rows) else rows
    if rows:
        return state | _picked(state, rows, classes), ""
    if rows is None and found == classes:
        return state, ""
    rest = {name: tensor for name, tensor in state.items() if name not in _HEAD}
    return rest, f" (the head of the file has {found} classes, that of the model {classes})" * (rows is None)


def _picked(state: State, rows: Sequence[int], classes: int) -> State:
    found = len(state["head.weight"])
    if len(rows) != classes:
        raise ValueError(f"rows has {len(rows)} rows, the model has {classes} classes")
    if not 0 <= min(rows) <= max(rows) < found:
        raise ValueError(f"rows go from {min(rows)} to {max(rows)}, the head of the file has {found} rows")
    picked = torch.tensor(rows, device=state["head.weight"].device)
    return {name: state[name][picked] for name in _HEAD if name in state}


def _check_overlap(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    if not own.keys() & state.keys():
        raise CheckpointError(
            f"they have no name in common: the file has {min(state)!r} …, the model {min(own, default='nothing')!r} …"
        )
