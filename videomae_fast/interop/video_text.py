"""Start a split BERT, or a whole dual encoder, from weights of other models, with a report."""

from ..models.audio_fusion import AudioVideoTextModel
from ..models.bert import SplitBert
from ..models.dual_encoder import VideoTextModel
from .audio_tower import AUDIO, audio_part
from .checkpoint import CheckpointError, State
from .huggingface.text import bert_state, is_bert
from .settings import PathLike, settings_beside
from .video_tower import VIDEO, Part, load_part, names_below, video_part

_TEXT = "text_encoder."  # what the names of a text tower begin with in a dual encoder


def init_split_bert(model: SplitBert, path: PathLike, strict: bool = True) -> str:
    """Initialise a split BERT; it stays untouched if the weights do not fit.

    Args:
        model: its tensors keep their dtype and device.
        path: weights of transformers' BERT (any class), of InternVideo2's second stage, or of a run. Without them,
            cross-attention and the words' head are new.
        strict: whether the file must hold every other tensor.

    Returns:
        A report of tensors that are new or not used; "" if there are none.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read, holds no BERT of this size, has another number of heads or another
            activation, or a decoder of words that is not the word embedding.
    """
    return load_part(model, path, lambda state: _text_part(model, names_below(state, _TEXT), path), strict)


def init_video_text(model: VideoTextModel, path: PathLike, strict: bool = True) -> str:
    """Initialise a whole dual encoder from a run, or from InternVideo2's second stage, with or without sound.

    Towers are read as by `init_video_tower`, `init_split_bert` and `init_audio_tower`; other names are those of the
    model.

    Args:
        model: its tensors keep their dtype and device. It stays untouched if the weights do not fit.
        path: a file of weights, or a folder that holds one.
        strict: whether the file must hold every tensor that is not derived or new.

    Returns:
        A report of tensors that are new, derived, interpolated or not used; "" if there are none.

    Raises:
        FileNotFoundError: `path` does not exist.
        CheckpointError: the file cannot be read, or holds no dual encoder of these towers.
    """
    return load_part(model, path, lambda state: _whole(model, state, path), strict)


def _whole(model: VideoTextModel, state: State, path: PathLike) -> Part:
    """The weights of the towers, and all others of the model."""
    hears = isinstance(model, AudioVideoTextModel)
    towers = (VIDEO, _TEXT, AUDIO) if hears else (VIDEO, _TEXT)
    for prefix in towers:
        if not any(name.startswith(prefix) for name in state):
            raise CheckpointError(f"it holds no dual encoder: no name begins with {prefix!r}")
    parts = [video_part(model.vision_encoder, names_below(state, VIDEO), path).below(VIDEO)]
    text = {name: tensor for name, tensor in state.items() if name.startswith(_TEXT)}
    if isinstance(model.text_encoder, SplitBert):
        parts.append(_text_part(model.text_encoder, names_below(text, _TEXT), None).below(_TEXT))
    else:
        parts.append(Part(text))
    if hears:
        parts.append(audio_part(names_below(state, AUDIO)).below(AUDIO))
    rest = {name: t for name, t in state.items() if not name.startswith(towers)}
    own = model.state_dict().keys()
    parts.append(Part({n: t for n, t in rest.items() if n in own}, unused=[n for n in rest if n not in own]))
    whole = Part({})
    for part in parts:
        whole.state |= part.state
        whole.new += part.new
        whole.unused += part.unused
        whole.notes |= part.notes
    return whole


def _text_part(model: SplitBert, state: State, path: PathLike | None) -> Part:
    if not is_bert(state):
        raise CheckpointError(f"it holds no BERT: its names are {min(state)!r} … {max(state)!r}")
    found, unused = bert_state(state, {} if path is None else settings_beside(path), model.config)
    own = model.state_dict()
    lacking = [group for group in ("crossattention.", "cls.") if not any(group in name for name in found)]
    new = [name for name in own if any(group in name for group in lacking)]
    return Part(found, new, unused)
