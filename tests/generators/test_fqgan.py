from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import ConfigError, FormatError
from smalti.generators.fqgan import FAR, PRESETS, FARConfig
from smalti.tokenizers.fqgan import FQGAN, FQGANConfig
from tests.tokenizers.tiny_fqgan import TINY

CONFIG = FARConfig(
    codes=64, side=4, patch=4, classes=3, dim=32, heads=4, depth=2, head_depth=1, hidden=48, dropout=0.0
)
TRIPLE = dataclasses.replace(CONFIG, codebooks=3, silent_class=True)
BOTH = pytest.mark.parametrize("config", [CONFIG, TRIPLE], ids=["dual", "triple"])


def made(config: FARConfig) -> FAR:
    """With outputs that say something, where training begins with none."""
    model = FAR(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize(("name", "count"), [("FAR-B", 417_104_896), ("FAR-L", 901_195_520)])
def test_presets_have_the_official_number_of_parameters(name, count) -> None:
    with torch.device("meta"):
        model = FAR(PRESETS[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@BOTH
def test_a_code_sees_what_is_before_it_alone(config) -> None:
    model = made(config)
    ids = torch.randint(64, (1, 16, config.codebooks))
    before = model(ids, torch.tensor([1]))
    for book in range(config.codebooks):
        changed = ids.clone()
        changed[0, 5, book] = (changed[0, 5, book] + 1) % 64
        differs = ((model(changed, torch.tensor([1])) - before).abs().amax((0, 3)) > 1e-6).tolist()
        assert not any(any(place) for place in differs[:5])
        assert differs[5] == [later > book for later in range(config.codebooks)]
        assert all(all(place) for place in differs[6:])


@BOTH
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_drawing_step_by_step_is_what_the_whole_says(config, guidance) -> None:
    model = made(config)
    classes = torch.tensor([0, 2])
    tokens = model.sample(2, classes, guidance, temperature=0.0)
    assert tokens.grid == (1, 4, 4)
    with torch.no_grad():
        free = model(tokens.ids, torch.full_like(classes, model.null))
        logits = free + guidance * (model(tokens.ids, classes) - free)
    assert torch.equal(logits.argmax(-1), tokens.ids)


def test_draws_repeat_with_their_seed() -> None:
    model = made(CONFIG)
    one, same, other = (
        model.sample(2, generator=torch.Generator().manual_seed(seed)).ids for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_loss_is_the_mean_over_codebooks() -> None:
    model = made(CONFIG)
    ids, classes = torch.randint(64, (2, 16, 2)), torch.tensor([0, 1])
    logits = model(ids, classes)
    each = [F.cross_entropy(logits[:, :, book].flatten(0, 1), ids[:, :, book].flatten()) for book in (0, 1)]
    torch.testing.assert_close(model.loss(ids, classes, drop=0.0), sum(each) / 2)
    none = model(ids, torch.full_like(classes, model.null))
    dropped = F.cross_entropy(none.flatten(0, 2), ids.flatten())
    torch.testing.assert_close(model.loss(ids, classes, drop=1.0), dropped)


@BOTH
def test_everything_learns(config) -> None:
    model = made(config).train()
    model.loss(torch.randint(64, (4, 16, config.codebooks)), torch.tensor([0, 1, 2, 1]), drop=0.5).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_tokens_decode() -> None:
    tokenizer = FQGAN(FQGANConfig(**TINY)).eval()
    assert tokenizer.decode(made(CONFIG).sample(2)).shape == (2, 3, 1, 16, 16)


def test_what_does_not_exist_is_refused() -> None:
    model = made(CONFIG)
    with pytest.raises(FormatError, match="class 3 to 4"):
        model.sample(1, torch.tensor([4]))
    with pytest.raises(FormatError, match="id 0 to 64"):
        model(torch.tensor([[[0, 64]]]), torch.tensor([0]))
    with pytest.raises(FormatError, match="17 places of 2 codes"):
        model(torch.zeros(1, 17, 2, dtype=torch.long), torch.tensor([0]))
    with pytest.raises(ConfigError, match="1 classes for 2"):
        model.sample(2, torch.tensor([0]))
    with pytest.raises(ConfigError, match="into fours"):
        FAR(CONFIG, heads=16)
    with pytest.raises(ConfigError, match="has no tok_embeddings_1"):
        FAR.from_official({"weight": torch.zeros(1)})
