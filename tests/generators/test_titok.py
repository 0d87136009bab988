from __future__ import annotations

import math

import pytest
import torch

from smalti.errors import ConfigError, FormatError
from smalti.generators.titok import PRESETS, TiTokGenerator, TiTokGeneratorConfig, masked_after
from smalti.tokenizers.titok import TiTok, TiTokConfig
from tests.tokenizers.tiny_titok import TINY

BERT = TiTokGeneratorConfig(
    codes=20, length=6, classes=3, dim=16, depth=2, heads=2, hidden=24, size=16, steps=4, dropout=0.0
)
UVIT = TiTokGeneratorConfig("u-vit", 20, 6, 3, 16, 4, 2, 24, 0.0, 4, size=16)
BOTH = pytest.mark.parametrize("config", [BERT, UVIT], ids=["bert", "u-vit"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps", [1, 3, 6, 9])
@pytest.mark.parametrize("length", [6, 32])
def test_ever_fewer_tokens_are_masked_by_the_arccos_schedule(length, steps) -> None:
    counts = masked_after(length, steps)
    assert len(counts) == steps
    assert counts[-1] == 0
    before = length
    for step, count in enumerate(counts[:-1], 1):
        assert count == max(1, min(before - 1, math.floor(length * 2 * math.acos(step / steps) / math.pi)))
        before = count


@BOTH
def test_every_step_fixes_tokens_and_none_stays_masked(config, monkeypatch) -> None:
    model = TiTokGenerator(config).eval()
    met = []
    step = model._step
    monkeypatch.setattr(
        model, "_step", lambda ids, *rest: met.append((ids == model.mask).sum(1)) or step(ids, *rest)
    )
    tokens = model.sample(3, torch.tensor([0, 1, 2]), steps=config.length, generator=generator())
    assert tokens.ids.shape == (3, 6, 1)
    assert int(tokens.ids.max()) < config.codes
    counts = torch.stack(met)
    assert (counts[1:] < counts[:-1]).all()
    again = model.sample(3, torch.tensor([0, 1, 2]), steps=config.length, generator=generator())
    assert torch.equal(tokens.ids, again.ids)
    assert not torch.equal(model.sample(3, steps=6, generator=generator(1)).ids, tokens.ids)


def test_known_tokens_stay(monkeypatch) -> None:
    model = TiTokGenerator(BERT).eval()
    ids = torch.full((1, 6), model.mask)
    ids[0, 1] = 7
    for remask in (0, 3):
        after = model._step(ids, torch.tensor([0]), 1.0, 2.0, remask, generator())
        assert after[0, 1] == 7
        assert (after == model.mask).sum() == remask


@BOTH
def test_the_guided_logits_rise_as_told(config) -> None:
    model = TiTokGenerator(config)
    assert [model.lead(step, 4, 3.0) for step in range(4)] == [0.0, 0.75, 1.5, 2.25]
    constant = TiTokGenerator(config, rise="constant")
    assert {constant.lead(step, 4, 3.0) for step in range(4)} == {3.0}
    cosine = TiTokGenerator(config, rise="power-cosine")
    wanted = [(3.0 - 1) * 0.5 * (1 - math.cos(math.pi * (step / 4) ** 3)) for step in range(4)]
    assert [cosine.lead(step, 4, 3.0) for step in range(4)] == pytest.approx(wanted)


@BOTH
def test_it_learns_a_class(config) -> None:
    model = TiTokGenerator(config)
    classes = torch.tensor([0, 1, 2]).repeat(8)
    ids = (classes[:, None] * 5 + torch.arange(6)) % 20
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    draws = generator()
    losses = []
    for _ in range(60):
        loss = model.loss(ids, classes, draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    model.eval()
    drawn = TiTokGenerator(config, temperature=0.0)
    drawn.load_state_dict(model.state_dict())
    tokens = drawn.eval().sample(3, torch.tensor([0, 1, 2]), guidance=1.0)
    assert (tokens.ids[..., 0] == ids[:3]).float().mean() > 0.9


def test_at_least_one_token_is_hidden_and_all_can_be() -> None:
    model = TiTokGenerator(BERT)
    words, hidden = model.hide(torch.zeros(400, 6, dtype=torch.long), generator())
    counts = hidden.sum(1)
    assert counts.min() == 1
    assert counts.max() == 6
    assert torch.equal(words == model.mask, hidden)
    assert abs(counts.float().mean() / 6 - 2 / math.pi) < 0.05  # E arccos(u) · 2/π


def test_hidden_tokens_count_ten_times() -> None:
    model = TiTokGenerator(BERT).eval()
    ids, classes = torch.randint(20, (2, 6)), torch.tensor([0, 1])
    words, hidden = model.hide(ids, generator())
    log = model(words, classes).log_softmax(-1)
    each = -0.9 * log.gather(2, ids[..., None])[..., 0] - 0.1 * log.mean(-1)
    weight = 0.1 + 0.9 * hidden.float()
    wanted = (each * weight).sum() / weight.sum()
    torch.testing.assert_close(model.loss(ids, classes, generator(), drop=0.0), wanted)


def test_tokens_decode() -> None:
    tokenizer = TiTok(TiTokConfig(**TINY)).eval()
    model = TiTokGenerator(BERT, codes=1024).eval()
    assert tokenizer.decode(model.sample(2)).shape == (2, 3, 1, 16, 16)


def test_bert_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=25, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=7, hidden_act="gelu", layer_norm_eps=1e-12,
    )  # fmt: skip
    theirs = transformers.BertModel(config, add_pooling_layer=False).eval()
    head = torch.nn.Linear(16, 20)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    state |= {f"model.lm_head.{name}": tensor for name, tensor in head.state_dict().items()}
    ours = TiTokGenerator.from_official(state, heads=2, size=16).eval()
    assert (ours.config.classes, ours.config.length, ours.config.network) == (3, 6, "bert")
    ids, classes = torch.randint(21, (2, 6)), torch.tensor([2, 3])
    words = torch.cat([classes[:, None] + 21, ids], 1)
    torch.testing.assert_close(ours(ids, classes), head(theirs(words)[0][:, 1:]), atol=1e-5, rtol=1e-4)
    with pytest.raises(ConfigError, match="missing"):
        TiTokGenerator.from_official(
            {k: v for k, v in state.items() if not k.endswith("0.output.dense.bias")}, heads=2
        )


def test_what_does_not_exist_is_refused() -> None:
    model = TiTokGenerator(BERT).eval()
    with pytest.raises(FormatError, match="class 0 to 4"):
        model.sample(2, torch.tensor([0, 4]))
    with pytest.raises(FormatError, match="id 0 to 21"):
        model(torch.tensor([[0, 21, 0, 0, 0, 0]]), torch.tensor([0]))
    with pytest.raises(ConfigError, match="1 classes for 2"):
        model.sample(2, torch.tensor([0]))
    with pytest.raises(ConfigError, match="odd"):
        TiTokGenerator(UVIT, depth=3)


def test_presets_have_the_official_sizes() -> None:
    counts = {}
    with torch.device("meta"):
        for name in ("titok_l32", "titok_s128"):
            counts[name] = sum(p.numel() for p in TiTokGenerator(PRESETS[name]).parameters())
    assert counts == {"titok_l32": 177_202_432, "titok_s128": 294_990_848}
