"""Captioners: their loss against transformers', what is trained, generation, masks, bad input."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.models.chatting import language_model, tokenizer
from tests.models.test_layers import randomise
from tests.models.test_video_tower import CLIP, TINY, internvideo2, transformer
from videomae_fast.memory import MemoryProfile
from videomae_fast.models.captioner import VideoCaptioner
from videomae_fast.models.chat_tokens import ChatTokens, begin_captions, encode_captions, encode_chat
from videomae_fast.models.connectors import Connector, MeanPoolMLP, PerceiverResampler, QFormer
from videomae_fast.models.video_transformer import VideoTransformer

TOKENIZER = tokenizer()
TALKS = [
    [{"role": "user", "content": "What moves?"}, {"role": "assistant", "content": "A red square moves left."}],
    [{"role": "user", "content": "And here?"}, {"role": "assistant", "content": "Blue."}],
]
QFORMER: dict[str, Any] = {
    "queries": 2,
    "extra_queries": 1,
    "dim": 8,
    "depth": 2,
    "heads": 2,
    "hidden": 12,
    "dropout": 0,
}
GATES = {"heads": 2, "head_dim": 4}


def in_float32(injection: str = "prefix", connector: Connector | None = None, **options: Any) -> VideoCaptioner:
    tower = options.pop("tower", None) or transformer()
    if connector is None:
        width = tower.token_dim
        prefix = injection == "prefix"
        connector = QFormer(width, 16, **QFORMER) if prefix else PerceiverResampler(width, latents=3, depth=1, heads=2)
    language = options.pop("language", None) or language_model()
    gates = None if injection == "prefix" else GATES
    return VideoCaptioner(tower, connector, language, injection=injection, cross_attention=gates, **options)


def captioner(injection: str = "prefix", connector: Connector | None = None, **options: Any) -> VideoCaptioner:
    """In float64."""
    torch.manual_seed(2)
    found = in_float32(injection, connector, **options).double()
    randomise(found.connector)
    if found.cross_attention is not None:
        randomise(found.cross_attention)
    return found.eval()


def clip(batch: int = 2) -> Tensor:
    torch.manual_seed(3)
    return torch.randn(batch, *CLIP[1:], dtype=torch.float64)


def talk(**options: Any) -> ChatTokens:
    return encode_chat(TOKENIZER, TALKS, **options)


def is_answer(tokens: ChatTokens) -> Tensor:
    flat = torch.zeros(tokens.ids.numel(), dtype=torch.bool)
    flat[tokens.answers] = True
    return flat.view_as(tokens.ids)


def truth(found: VideoCaptioner, tokens: ChatTokens, rows: Tensor) -> Tensor:
    """Each text alone, without padding, through transformers' own loss of labels."""
    sums, count = torch.zeros((), dtype=torch.float64), 0
    language: Any = found.language_model
    wanted = is_answer(tokens)
    for row in range(len(tokens.ids)):
        kept, place = tokens.mask[row], int(tokens.place[row])
        ids = tokens.ids[row][kept]
        labels = ids.masked_fill(~wanted[row][kept], -100)
        embedded = language.get_input_embeddings()(ids)
        if found.num_prefix:
            embedded = torch.cat([embedded[:place], rows[row], embedded[place:]])
            labels = torch.cat([labels[:place], labels.new_full((len(rows[row]),), -100), labels[place:]])
        number = int((labels >= 0).sum())
        sums = sums + number * language(inputs_embeds=embedded[None], labels=labels[None]).loss
        count += number
    return sums / count


def test_the_loss_of_a_prefix_is_that_of_transformers() -> None:
    found, tokens = captioner(), talk()
    output = found(clip(), tokens)
    assert output.tokens == len(tokens.answers)
    rows = found.connector(found.vision_encoder(clip()).tokens)
    torch.testing.assert_close(output.loss, truth(found, tokens, rows))
    # Captions without a template, of videos in another order.
    captions = encode_captions(TOKENIZER, ["Blue.", "A red square."])
    torch.testing.assert_close(found(clip().flip(0), captions).loss, truth(found, captions, rows.flip(0)))


@pytest.mark.parametrize("injection", ["prefix", "cross-attention"])
def test_the_likelihood_of_each_answer(injection: str) -> None:
    """Of answers of different lengths, two about one clip and one about another: as each alone, by its loss."""
    found, marks = captioner(injection), injection == "prefix"
    question = TALKS[0][:1]
    talks = [[*question, {"role": "assistant", "content": text}] for text in ("Blue.", "A red square", "Blue.")]
    tokens, clip_of = encode_chat(TOKENIZER, talks, marks=marks), torch.tensor([1, 1, 0])
    likely = found.log_likelihood(clip(), tokens, clip_of)
    for number, own in enumerate(clip_of.tolist()):
        alone = found(clip()[own : own + 1], encode_chat(TOKENIZER, [talks[number]], marks=marks))
        torch.testing.assert_close(likely[number], -alone.loss.detach() * alone.tokens)
    assert likely[0] != likely[2]
    for wrong, message in (
        ({"clip_of": clip_of[:2]}, "tokens must be of 2 whole texts with answers, got 3"),
        ({"tokens": encode_chat(TOKENIZER, talks, marks=marks, max_tokens=20)}, "3 were cut"),
    ):
        with pytest.raises(ValueError, match=message):
            found.log_likelihood(clip(), **({"tokens": tokens, "clip_of": clip_of} | wrong))


def test_gates_that_are_shut_leave_the_language_model_alone() -> None:
    found, tokens = captioner("cross-attention"), talk(marks=False)
    assert found.cross_attention is not None
    opened = found(clip(), tokens).loss
    for block in found.cross_attention:
        block.attn_gate.data.zero_()
        block.ff_gate.data.zero_()
    torch.testing.assert_close(found(clip(), tokens).loss, truth(found, tokens, clip()))
    assert not torch.allclose(opened, found(clip(), tokens).loss)


def test_cross_attention_reads_the_video_in_every_layer() -> None:
    """Written out: a block, a layer, and so on; then the norm, the head, and the loss."""
    found, captions = captioner("cross-attention"), encode_captions(TOKENIZER, ["A red square.", "Blue!"])
    language, blocks = found.language_model, found.cross_attention
    rows = found.connector(found.vision_encoder(clip()).tokens)
    total = torch.zeros((), dtype=torch.float64)
    for number in range(2):
        kept = captions.mask[number]
        ids = captions.ids[number][kept][None]
        x = language.model.embed_tokens(ids)
        position = language.model.rotary_emb(x, torch.arange(ids.shape[1])[None])
        for block, layer in zip(blocks, language.model.layers, strict=True):
            x = layer(block(x, rows[number : number + 1]), attention_mask=None, position_embeddings=position)
            x = x[0] if isinstance(x, tuple) else x
        logits = language.lm_head(language.model.norm(x))[0, :-1]
        total = total - logits.log_softmax(1).gather(1, ids[0, 1:, None]).sum()
    torch.testing.assert_close(found(clip(), captions).loss, total / len(captions.answers))


@pytest.mark.parametrize("injection", ["prefix", "cross-attention"])
def test_the_whole_head_is_never_called(injection: str) -> None:
    found = captioner(injection)

    def fail(*_: Any) -> None:
        raise AssertionError("the head made logits of all tokens")

    found.language_model.lm_head.register_forward_pre_hook(fail)
    found(clip(), talk(marks=injection == "prefix")).loss.backward()


@pytest.mark.parametrize(("train", "blocks"), [("none", 0), ("last:1", 1), ("all", 3)])
@pytest.mark.parametrize("injection", ["prefix", "cross-attention"])
def test_what_is_trained(injection: str, train: str, blocks: int) -> None:
    found = captioner(injection, tower=transformer(pool="attention"))
    assert not any(parameter.requires_grad for parameter in found.vision_encoder.parameters()), "until it is chosen"
    found.train_video(train)
    found.train()
    found(clip(), talk(marks=injection == "prefix")).loss.backward()
    got = {name for name, p in found.named_parameters() if p.grad is not None}
    assert got == {name for name, p in found.named_parameters() if p.requires_grad}
    assert not any(name.startswith("language_model.") or "clip_projector" in name for name in got)
    numbers = {name.split(".")[2] for name in got if name.startswith("vision_encoder.blocks.")}
    assert len(numbers) == blocks and ("vision_encoder.patch_embed.proj.weight" in got) == (train == "all")
    assert {n for n, _ in found.named_parameters() if n.startswith(("connector.", "cross_attention."))} <= got


def greedy(found: VideoCaptioner, video: Tensor, prompt: ChatTokens, count: int) -> list[int]:
    """One text, token by token, without a cache."""
    language: Any = found.language_model
    rows = found.read(video, prompt)
    inputs, _ = found._inputs(prompt, rows)
    said: list[int] = []
    for _ in range(count):
        added = language.get_input_embeddings()(torch.tensor([said], dtype=torch.int64))
        with found._reading(rows):
            logits = language(inputs_embeds=torch.cat([inputs, added], 1)).logits
        said.append(int(logits[0, -1].argmax()))
        if said[-1] == 2:
            break
    return said


@pytest.mark.parametrize("injection", ["prefix", "cross-attention"])
def test_generation_is_greedy_token_by_token(injection: str) -> None:
    found, marks = captioner(injection), injection == "prefix"
    prompts = [[messages[0]] for messages in TALKS]
    tokens = encode_chat(TOKENIZER, prompts, marks=marks, generation=True)
    assert not tokens.mask.all(), "else padding is not tested"
    answers = found.generate(clip(), tokens, max_new_tokens=6, do_sample=False)
    for number, prompt in enumerate(prompts):
        alone = encode_chat(TOKENIZER, [prompt], marks=marks, generation=True)
        expected = greedy(found, clip()[number : number + 1], alone, 6)
        assert answers[number].tolist()[: len(expected)] == expected
    assert len({tuple(row.tolist()) for row in answers}) == 2
    assert found.generate(clip(), begin_captions(TOKENIZER, 2), max_new_tokens=2, num_beams=3).shape[0] == 2


def test_beams_read_their_own_video() -> None:
    found, begin = captioner("cross-attention"), begin_captions(TOKENIZER, 2)
    together = found.generate(clip(), begin, max_new_tokens=4, num_beams=3, do_sample=False)
    for number in range(2):
        one = begin_captions(TOKENIZER, 1)
        alone = found.generate(clip()[number : number + 1], one, max_new_tokens=4, num_beams=3, do_sample=False)
        assert together[number].tolist()[: alone.shape[1]] == alone[0].tolist()


def test_hidden_tokens_are_not_read() -> None:
    found = captioner(mask_ratio=0.3)
    sample = torch.tensor([4, 9])
    visible = found.draw(sample, seed=1)
    assert visible is not None and visible.shape == (2, 9)  # of 12
    assert torch.equal(visible, found.vision_encoder.draw(sample, 0.3, seed=1))
    rows = found.read(clip(), talk(), visible)
    torch.testing.assert_close(rows, found.connector(found.vision_encoder(clip(), visible).tokens))
    assert not torch.allclose(rows, found.read(clip(), talk()))
    assert captioner().draw(sample, seed=1) is None


@pytest.mark.parametrize("tower", [transformer, internvideo2], ids=["plain", "cls"])
def test_longvivit_averages_places_over_time(tower: Callable[..., Any]) -> None:
    made = tower()
    found = captioner("cross-attention", tower=made, time_mean=True, mask_ratio=0.3)
    frames, height, width = made.config.grid
    count = frames * height * width
    tokens = made(clip()).tokens[:, -count:]
    pooled = tokens.view(2, frames, height * width, -1).mean(1)
    captions = encode_captions(TOKENIZER, ["Blue.", "Red."])
    torch.testing.assert_close(found.read(clip(), captions), found.connector(pooled))
    visible = found.draw(torch.tensor([4, 9]), seed=1)
    seen = made(clip(), visible).tokens[:, -visible.shape[1] :]
    grid = torch.zeros(2, count, made.token_dim, dtype=torch.float64).scatter(
        1, visible[..., None].expand_as(seen), seen
    )
    number = torch.zeros(2, count, dtype=torch.float64).scatter(1, visible, 1.0).view(2, frames, -1).sum(1)
    mean = grid.view(2, frames, height * width, -1).sum(1) / number.clamp_min(1)[..., None]
    torch.testing.assert_close(found.read(clip(), captions, visible), found.connector(mean, number > 0))
    image = clip()[:, :, :1]
    torch.testing.assert_close(found.read(image, captions), found.connector(made(image).tokens[:, -height * width :]))


@pytest.mark.parametrize("injection", ["prefix", "cross-attention"])
def test_a_language_model_in_bfloat16(injection: str) -> None:
    truth_of, tokens = captioner(injection), talk(marks=injection == "prefix")
    truth_of.language_model.to(torch.bfloat16).double()  # the same weights
    expected = truth_of(clip(), tokens).loss
    found = copy.deepcopy(truth_of).float()
    found.language_model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        loss = found(clip().float(), tokens).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=0.03, atol=0.0)
    loss.backward()
    for name, parameter in found.connector.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
    prompt = begin_captions(TOKENIZER, 2)
    assert found.generate(clip().float(), prompt, max_new_tokens=2, do_sample=False).shape[0] == 2


@pytest.mark.parametrize("injection", ["prefix", "cross-attention"])
def test_memory_of_a_step_can_be_predicted(injection: str) -> None:
    """Fake tensors have no values to check, and as many bytes."""

    def step() -> int:
        found, tokens = in_float32(injection, tower=VideoTransformer(TINY)), talk(marks=injection == "prefix")
        with MemoryProfile(found) as profile:
            found(torch.zeros(2, *CLIP[1:]), tokens).loss.backward()
        return profile.figures.step_bytes

    real = step()
    with FakeTensorMode():
        assert step() == real > 0


def test_activation_checkpointing_of_a_prefix_changes_nothing() -> None:
    found = captioner().train()
    expected = found(clip(), talk()).loss
    expected.backward()
    grad = found.connector.query_tokens.grad.clone()
    found.zero_grad()
    found.language_model.gradient_checkpointing_enable({"use_reentrant": False})  # by its name before transformers 5
    loss = found(clip(), talk()).loss
    loss.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found.connector.query_tokens.grad, grad)
    other = captioner("cross-attention").train()
    other.language_model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="would run its layers again without the video"):
        other(clip(), talk(marks=False))


def capped() -> nn.Module:
    found = language_model()
    found.config.final_logit_softcapping = 30.0
    return found


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: captioner("suffix"),
            ValueError,
            "injection must be one of ('prefix', 'cross-attention'), got 'suffix'",
        ),
        (lambda: captioner(mask_ratio=1.0), ValueError, "mask_ratio must be in [0, 1), got 1.0"),
        (lambda: captioner(loss="fast"), ValueError, "implementation must be one of"),
        (lambda: captioner(connector=MeanPoolMLP(5, 16)), ValueError, "for tokens 24 wide, as the video tower makes"),
        (lambda: captioner(connector=MeanPoolMLP(24, 5)), ValueError, "must make rows 16 wide"),
        (
            lambda: captioner(language=nn.Linear(2, 2)),
            TypeError,
            "must be a causal language model of transformers, got L",
        ),
        (lambda: captioner(language=capped()), ValueError, "changes its logits (final_logit_softcapping is 30.0)"),
        (lambda: captioner().train_video("first"), ValueError, "train must be 'all', 'head' or 'last:K'"),
        (lambda: captioner()(clip(3), talk()), ValueError, "as many texts as clips, got 2 and 3"),
        (lambda: captioner()(clip(), begin_captions(TOKENIZER, 2)), ValueError, "tokens have no answer"),
        (lambda: captioner().generate(clip(), talk()), ValueError, "tokens must be padded on the left"),
        (
            lambda: captioner(language=language_model(max_position_embeddings=20))(clip(), talk()),
            ValueError,
            "tokens must be 17 a text at most, which the language model has positions for beside 3 rows",
        ),
        (
            lambda: captioner(language=language_model(vocab_size=50))(clip(), talk()),
            ValueError,
            "tokens must be from 0 to 49, the vocabulary of the language model",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
