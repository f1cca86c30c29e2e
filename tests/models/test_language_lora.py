"""Adapters of a captioner's language model: against transformers' own loss, also on the head; names that do not fit."""

import copy
import re
import sys

import pytest
import torch

from tests.models.chatting import language_model, stand_in_for_peft
from tests.models.test_captioner import captioner, clip, talk, truth
from videomae_fast.models.language_model import LORA_TARGETS, add_language_lora


@pytest.fixture(params=["stand-in", "peft"])
def peft(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "peft":
        pytest.importorskip("peft")
    else:
        monkeypatch.setitem(sys.modules, "peft", stand_in_for_peft())


@pytest.mark.usefixtures("peft")
@pytest.mark.parametrize("targets", LORA_TARGETS.values(), ids=LORA_TARGETS)
def test_adapters_are_trained_also_on_the_head(targets: tuple[str, ...]) -> None:
    language = language_model().bfloat16()
    before = copy.deepcopy(language).double()
    add_language_lora(language, targets, rank=2, alpha=8, dropout=0.0)
    adapters = {name: p for name, p in language.named_parameters() if p.requires_grad}
    assert all(".lora_" in name and p.dtype == torch.float32 for name, p in adapters.items())
    assert len(adapters) == 2 * sum(2 if name != "lm_head" else 1 for name in targets)
    found, plain, tokens = captioner(language=language), captioner(language=before), talk()
    torch.testing.assert_close(found(clip(), tokens).loss, plain(clip(), tokens).loss)  # B is 0
    for parameter in adapters.values():
        parameter.data.normal_()
    loss = found(clip(), tokens).loss
    assert not torch.allclose(loss, plain(clip(), tokens).loss)
    rows = found.connector(found.vision_encoder(clip()).tokens)
    torch.testing.assert_close(loss, truth(found, tokens, rows))  # through the head as transformers calls it
    loss.backward()
    names = {name for name, p in found.language_model.named_parameters() if p.grad is not None and p.grad.any()}
    assert names == adapters.keys()


@pytest.mark.usefixtures("peft")
def test_adapters_that_do_not_fit() -> None:
    for arguments, message in (
        ({"targets": ("q_proj", "query")}, "targets query are no linear maps of LlamaForCausalLM; it has down_proj, "),
        ({"rank": 0}, "rank must be at least 1, alpha positive and dropout in [0, 1), got 0"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            add_language_lora(language_model(), **arguments)
    language = language_model()
    add_language_lora(language, rank=1)
    with pytest.raises(ValueError, match="has adapters already"):
        add_language_lora(language)


def test_peft_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=re.escape("videomae-fast[lora]")):
        add_language_lora(language_model())
