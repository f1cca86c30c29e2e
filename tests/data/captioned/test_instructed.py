"""Conversations on their way from a list to the tokens that a captioner learns."""

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from tests.models.chatting import CHATML, MISTRAL, tokenizer
from videomae_fast.data import CaptionedDataset, Choice, make_captioned_loader, parse_conversation, read_instructions
from videomae_fast.models import encode_chat


def test_the_loader_carries_conversations_to_the_tokens_of_answers(captioned_folder: Path, tmp_path: Path) -> None:
    turns = [{"q": "What moves?", "a": "A dog."}, {"q": "Where?", "a": "It is left of the tree."}]
    path = tmp_path / "chat.json"
    path.write_text(json.dumps([{"video": f"{number}.mp4", "QA": turns} for number in range(2)]))
    videos = CaptionedDataset(read_instructions(path, captioned_folder), num_frames=2, size=(16, 16), seed=0)
    (batch,) = make_captioned_loader(videos, None, batch_size=2, num_steps=1)
    fast = tokenizer()
    tokens = encode_chat(fast, [parse_conversation(text) for text in batch.texts])
    learned = fast.decode(tokens.ids.flatten()[tokens.answers])
    assert learned == "A dog.<|im_end|>It is left of the tree.<|im_end|>" * 2


@pytest.mark.parametrize("template", [CHATML, MISTRAL])
def test_a_choice_is_a_question_to_be_answered(template: str) -> None:
    fast = tokenizer(template)
    tokens = encode_chat(fast, [Choice("What?", ("up", "down"), 1).messages()], generation=True)
    assert "(A) up\n(B) down" in fast.decode(tokens.ids[0]) and not len(tokens.answers)
