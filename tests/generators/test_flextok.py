from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.generators.flextok import FlexTokGenerator
from smalti.tokenizers.flextok import FlexTok
from smalti.tokens import Source
from tests.tokenizers.tiny_flextok import TINY


def made(**changes) -> FlexTokGenerator:
    sizes = {"dim": 32, "depth": 2, "heads": 4, "codes": 200, "length": 8, "classes": 5}
    model = FlexTokGenerator(**sizes | changes).eval()
    torch.nn.init.normal_(model.lm.output.weight)  # it starts at zero
    return model


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_drawing_gives_what_whole_passes_give(guidance: float) -> None:
    model, classes = made(), torch.tensor([1, 2])
    ids = model.sample(classes, guidance=guidance, temperature=0.0).ids[..., 0]
    told, free = (model(c, ids[:, :-1]) for c in (classes, torch.full((2,), 5)))
    assert torch.equal(ids, (free + guidance * (told - free)).argmax(-1))


def test_a_text_is_read_by_every_block() -> None:
    model = made(classes=0, text=12)
    text = torch.randn(2, 3, 12)
    ids = model.sample(text, guidance=2.0, temperature=0.0).ids[..., 0]
    told, free = (model(c, ids[:, :-1]) for c in (text, model.no_text.expand(2, 3, -1)))
    assert not torch.allclose(told, free)
    assert torch.equal(ids, (free + 2.0 * (told - free)).argmax(-1))


def test_any_number_of_codes_is_drawn_and_decodes() -> None:
    model, source = made(), Source(16, 13, 1, pad=(0, 0, 3))
    few = model.sample(torch.tensor([3]), 2, temperature=0.0, source=source)
    assert torch.equal(few.ids, model.sample(torch.tensor([3]), temperature=0.0).ids[:, :2])
    assert FlexTok(**TINY).eval().decode(few).shape == (1, 3, 1, 16, 13)


def test_in_training_conditions_are_dropped() -> None:
    model = made(condition_dropout=1.0, dropout=0.0).train()
    ids = torch.randint(200, (1, 3))
    told, nothing = (model(torch.tensor([c]), ids) for c in (1, 5))
    torch.testing.assert_close(told, nothing)


def test_what_cannot_be_a_condition_is_refused() -> None:
    for wrong in ({"classes": 0}, {"text": 12}):
        with pytest.raises(ConfigError, match="one of them"):
            made(**wrong)
    with pytest.raises(ConfigError, match=r"classes \[b\]"):
        made().sample(torch.randn(1, 3, 12))
