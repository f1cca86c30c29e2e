"""Batches of captioned clips: their tokens, their ids, their parts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae_fast.data import (
    CaptionCounts,
    CaptionedBatch,
    CaptionedDataset,
    CaptionTokenizer,
    Mixture,
    positive_ids,
    split_kinds,
)
from videomae_fast.data.captioned.batch import collate_captioned


@pytest.fixture(scope="module")
def samples(captioned: Mixture) -> list[CaptionedBatch]:
    """One sample of each video."""
    videos, _ = split_kinds(captioned)
    assert videos is not None
    dataset = CaptionedDataset(videos, num_frames=4, size=(16, 16), seed=0)
    return [dataset[(index, index)] for index in range(len(videos))]


def test_tokens_are_those_of_the_tokenizer(samples: list[CaptionedBatch], tokenizer: Any) -> None:
    batch = collate_captioned(samples, CaptionTokenizer(tokenizer, 6))
    assert batch.captions is not None and batch.cut == 0 and len(batch.texts) == 5
    expected = tokenizer(list(batch.texts), return_tensors="pt")["input_ids"]
    assert batch.captions.input_ids[:, :4].tolist() == expected.tolist()
    assert batch.captions.attention_mask.tolist() == [[True] * 4 + [False] * 2] * 5
    assert batch.captions.input_ids.dtype == torch.int64 and (batch.captions.input_ids[:, 4:] == 0).all()


def test_long_captions_are_cut_and_counted(samples: list[CaptionedBatch], tokenizer: Any) -> None:
    tokens, cut = CaptionTokenizer(tokenizer, 4)(["video 1", "video 1 2", "image", "film 1 2 3 4 5"])
    assert cut.tolist() == [False, True, False, True] and tokens.input_ids[1].tolist() == [
        2,
        4,
        8,
        3,
    ]  # the last token is still [SEP]
    counts = CaptionCounts()
    for max_tokens in (3, 4):
        counts.add(collate_captioned(samples, CaptionTokenizer(tokenizer, max_tokens)))
    assert counts.report() == [
        "5 of 10 texts were cut to the most tokens allowed",
        "6 of 10 clips repeat a frame: their videos are too short",
    ]
    assert CaptionCounts().report() == []


def test_parts_and_moves(samples: list[CaptionedBatch], tokenizer: Any) -> None:
    batch = collate_captioned(samples[:4], CaptionTokenizer(tokenizer, 3))
    first, second = batch.split(2)
    assert isinstance(first, CaptionedBatch) and first.texts + second.texts == batch.texts
    assert first.cut + second.cut == batch.cut == 4 and first.repeated + second.repeated == batch.repeated == 3
    for name in ("video_id", "caption_id", "sample"):
        assert torch.equal(torch.cat([getattr(first, name), getattr(second, name)]), getattr(batch, name))
    assert first.captions is not None and second.captions is not None and batch.captions is not None
    assert torch.equal(torch.cat([first.captions.input_ids, second.captions.input_ids]), batch.captions.input_ids)
    moved = batch.to("meta")
    assert moved.captions is not None and moved.captions.input_ids.is_meta and moved.clips.frames.is_meta
    assert moved.texts == batch.texts and torch.equal(moved.ids, batch.ids)


def test_one_kind_in_a_batch(samples: list[CaptionedBatch], captioned: Mixture) -> None:
    _, images = split_kinds(captioned)
    assert images is not None
    image = CaptionedDataset(images, num_frames=1, size=(16, 16), seed=0)[(0, 0)]
    with pytest.raises(ValueError, match="all images or all videos, got both"):
        collate_captioned([samples[0], image])


@pytest.mark.parametrize(
    ("videos", "captions", "expected"),
    [
        ([1, 2, 3], [1, 2, 3], [0, 1, 2]),
        ([1, 2, 1], [1, 2, 3], [0, 1, 0]),
        ([1, 2, 3], [7, 8, 7], [0, 1, 0]),
        ([5, 5, 4, 4, -9], [1, 2, 2, 3, 9], [0, 0, 0, 0, 4]),  # 0 and 3 only through others
        ([7] * 3, [1, 2, 3], [0] * 3),
        ([], [], []),
    ],
)
def test_positives_have_one_id(videos: list[int], captions: list[int], expected: list[int]) -> None:
    assert positive_ids(torch.tensor(videos).long(), torch.tensor(captions).long()).tolist() == expected


def test_positive_ids_are_the_parts_of_a_graph() -> None:
    """Against a search from every pair, on random graphs and on one long chain."""
    generator = torch.Generator().manual_seed(0)
    graphs = [torch.randint(0, 25, (2, 30), generator=generator) for _ in range(20)]
    graphs.append(torch.stack([torch.arange(40) // 2, (torch.arange(40) + 1) // 2])[:, torch.randperm(40)])
    for videos, captions in graphs:
        linked = (videos[:, None] == videos) | (captions[:, None] == captions)
        for _ in range(6):
            linked = (linked.double() @ linked.double()) > 0
        assert positive_ids(videos, captions).tolist() == linked.int().argmax(1).tolist()
    with pytest.raises(ValueError, match="two lists of one length"):
        positive_ids(torch.zeros(3), torch.zeros(2))


def test_tokenizers_that_do_not_do(tokenizer: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(ValueError, match=r"must be more than 2 special tokens and at most .*, got 2"):
        CaptionTokenizer(tokenizer, 2)
    with pytest.raises(ValueError, match="must be a fast one of transformers, got str"):
        CaptionTokenizer("bert", 8)
    words = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    words.no_padding()
    plain = PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=7)
    with pytest.raises(ValueError, match="must have a padding token"):
        CaptionTokenizer(plain, 5)
    plain.pad_token = "[PAD]"
    with pytest.raises(ValueError, match=r"at most 7, the most that .* is made for, got 8"):
        CaptionTokenizer(plain, 8)
    with pytest.raises(ValueError, match=r"no tokenizer can be read from .*tmp"):
        CaptionTokenizer.read(tmp_path, 8)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # of which transformers 5 makes special tokens
    with pytest.raises(ValueError, match=r"no tokenizer can be read|must have words, got .*, which has special tokens"):
        CaptionTokenizer.read(tmp_path, 8)


def test_tokenizers_are_read_without_their_code(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert CaptionTokenizer.read(tmp_path, 4)(["video 1"])[0].input_ids.tolist() == [[2, 4, 8, 3]]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    code = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | code))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nOwn = None\n")
    with pytest.raises(ValueError, match="no tokenizer can be read from"):
        CaptionTokenizer.read(tmp_path, 4)
    assert not (tmp_path / "ran").exists()
