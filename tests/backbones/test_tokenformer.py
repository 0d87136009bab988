"""TokenFormer: growth, pruning, causality, official layouts, sizes of the presets."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from smalti.backbones.tokenformer import TokenFormer, grow_model
from smalti.backbones.tokenformer_block import PRESETS, Pictures, TokenFormerConfig, Words
from smalti.errors import ConfigError, FormatError, MediaError
from smalti.tokens import Tokens

SMALL = {"dim": 32, "depth": 2, "heads": 2, "tokens": (12, 14, 24)}
VISION = TokenFormerConfig(**SMALL, pictures=Pictures(32, 8, 5))
LANGUAGE = TokenFormerConfig(**SMALL, pictures=None, words=Words(50))


def build(config: TokenFormerConfig) -> TokenFormer:
    model = TokenFormer(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("value_tokens"):
            torch.nn.init.normal_(parameter, std=0.3)  # values that start small would hide mistakes
    return model


def text(length: int = 9, batch: int = 2) -> Tokens:
    return Tokens(ids=torch.randint(0, 50, (batch, length, 1)))


def logits(model: TokenFormer, source) -> torch.Tensor:
    with torch.no_grad():
        return model.classify(model(source))


@pytest.mark.parametrize("freeze_old", [False, True])
@pytest.mark.parametrize("config", [VISION, LANGUAGE], ids=["vision", "language"])
def test_growing_changes_nothing_at_fixed_tau(config, freeze_old) -> None:
    model, source = build(config), text() if config.words else torch.rand(2, 3, 1, 32, 32)
    before = logits(model, source)
    grown = grow_model(model, (20, 14, 40), freeze_old=freeze_old)
    assert (grown.config.tokens, model.config.tokens) == ((20, 14, 40), (12, 14, 24))
    torch.testing.assert_close(logits(grown, source), before, atol=1e-6, rtol=1e-6)
    again = grow_model(grown, (21, 15, 41), freeze_old=freeze_old)
    torch.testing.assert_close(logits(again, source), before, atol=1e-6, rtol=1e-6)
    loaded = TokenFormer(again.config).eval()
    loaded.load_state_dict(again.state_dict())
    torch.testing.assert_close(logits(loaded, source), before, atol=1e-6, rtol=1e-6)
    assert again.config.frozen == ((20, 14, 40) if freeze_old else (0, 0, 0))


def test_growing_with_the_root_of_n_changes_the_function() -> None:
    model, source = build(VISION), torch.rand(1, 3, 1, 32, 32)
    grown = grow_model(model, (48, 56, 96), tau="sqrt_n")
    assert grown.config.tau is None
    assert (logits(grown, source) - logits(model, source)).abs().max() > 1e-2


@pytest.mark.parametrize("freeze_old", [False, True])
def test_new_tokens_learn_and_frozen_ones_stay(freeze_old) -> None:
    model = build(LANGUAGE)
    grown = grow_model(model, (18, 20, 30), freeze_old=freeze_old).train()
    layer = grown.blocks[0].mlp
    before = layer.keys.detach().clone()
    optimizer = torch.optim.AdamW(grown.parameters(), lr=1e-2, weight_decay=0.1)
    source = text()
    loss = torch.nn.functional.cross_entropy(grown.classify(grown(source)).mT, source.ids[..., 0])
    loss.backward()
    assert layer.key_tokens.grad[-6:].abs().max() > 0
    optimizer.step()
    moved = (layer.keys.detach() - before).abs().amax(1) > 0
    assert moved[24:].all()
    assert moved[:24].any() != freeze_old


def test_no_logit_depends_on_a_later_token() -> None:
    model, tokens = build(LANGUAGE), text()
    changed = tokens.ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 7) % 50
    one, other = logits(model, tokens), logits(model, Tokens(ids=changed))
    torch.testing.assert_close(one[:, :5], other[:, :5])
    assert (one[:, 5:] - other[:, 5:]).abs().amax(-1).min() > 1e-4


def test_padding_behind_changes_no_real_token() -> None:
    model, tokens = build(LANGUAGE), text(6)
    padded = Tokens(
        ids=torch.cat([tokens.ids, torch.zeros(2, 3, 1, dtype=torch.long)], 1),
        mask=(torch.arange(9) < 6).expand(2, -1),
    )
    with torch.no_grad():
        plain, ragged = model(tokens), model(padded)
    torch.testing.assert_close(ragged.tokens[:, :6], plain.tokens)
    torch.testing.assert_close(ragged.pooled, plain.pooled)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 32, 32), (3, 24, 40), (2, 17, 33), (1, 1, 1)])
def test_any_size_and_length(frames, height, width) -> None:
    model = build(VISION)
    with torch.no_grad():
        features = model(torch.rand(2, 3, frames, height, width))
    rows, columns = -(-height // 8), -(-width // 8)
    assert features.grid == (frames, rows, columns)
    assert features.prefix == frames
    assert features.tokens.shape == (2, frames * (rows * columns + 1), 32)
    assert model.classify(features).shape == (2, 5)
    assert torch.isfinite(features.tokens).all()


def test_a_clip_is_its_frames() -> None:
    model, clip = build(VISION), torch.rand(2, 3, 3, 32, 32)
    with torch.no_grad():
        whole, parts = model(clip), [model(clip[:, :, i : i + 1]) for i in range(3)]
    torch.testing.assert_close(whole.pooled, torch.stack([p.pooled for p in parts]).mean(0))
    torch.testing.assert_close(whole.tokens[:, :3], torch.cat([p.tokens[:, :1] for p in parts], 1))
    torch.testing.assert_close(whole.tokens[:, 3:], torch.cat([p.tokens[:, 1:] for p in parts], 1))


MILLIONS = {
    **{"150M": 152, "450M": 454, "900M": 903, "1.5B": 1587},
    **{"124M": 124, "354M": 354, "757M": 757, "1.4B": 1400},
    **{"vit-b-16-slim": 86.6, "vit-l-16-slim": 304.3},
}


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_of_presets(name) -> None:
    with torch.device("meta"):
        model = TokenFormer(PRESETS[name])
    assert model.params() / 1e6 == pytest.approx(MILLIONS[name], rel=0.02)


def test_arithmetic_of_the_slim_base_is_that_of_a_vit() -> None:
    with torch.device("meta"):
        model = TokenFormer(PRESETS["vit-b-16-slim"])
    assert model.flops((1, 3, 1, 224, 224)) / 1e9 == pytest.approx(17.58, rel=0.02)
    with torch.device("meta"):
        words = TokenFormer(dataclasses.replace(LANGUAGE))
    by_hand = 7 * 2 * 64 * (3 * 12 + 14 + 24) + 2 * 2 * 7 * 7 * 32
    assert words.flops((1, 7)) == by_hand


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_names_load(tied, prefix) -> None:
    model = build(dataclasses.replace(LANGUAGE, words=Words(50, tied=tied)))
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("blocks."):
            _, number, part, kind = name.split(".")
            home = "mlp" if part == "mlp" else f"attention.{part}"
            name = f"sequential.{int(number) + 2}.{home}.{kind.replace('_tokens', '_param_tokens')}"
        elif name.startswith("norm."):
            name = f"sequential.5.{name}"
        elif name == "embedding.weight":
            name = "sequential.0.word_embeddings.weight"
        elif tied:
            continue
        else:
            name = "sequential.6.final_linear.weight"
        state[prefix + name] = tensor
    state[f"{prefix}sequential.2.attention.rotary_emb.inv_freq"] = torch.ones(2)
    loaded, tokens = TokenFormer.from_official(state), text()
    assert loaded.config == model.config
    assert torch.equal(logits(loaded.eval(), tokens), logits(model, tokens))
    del state[f"{prefix}sequential.2.attention.rotary_emb.inv_freq"]
    with pytest.raises(ConfigError, match="give heads"):
        TokenFormer.from_official(state)
    del state[f"{prefix}sequential.3.mlp.key_param_tokens"]
    with pytest.raises(ConfigError, match=r"blocks\.1\.mlp\.key_tokens"):
        TokenFormer.from_official(state, heads=2)


@pytest.mark.parametrize("config", [VISION, LANGUAGE], ids=["vision", "language"])
def test_gradients_reach_all_with_and_without_checkpointing(config) -> None:
    model, source = build(config).train(), text() if config.words else torch.rand(1, 3, 1, 32, 32)
    model.classify(model(source)).square().mean().backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert all(g.abs().max() > 0 for g in plain.values())
    model.zero_grad()
    model.config = dataclasses.replace(config, checkpointing=True)
    model.classify(model(source)).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


@pytest.mark.parametrize("config", [VISION, LANGUAGE], ids=["vision", "language"])
def test_bf16_runs_near_float32(config) -> None:
    model, source = build(config), text() if config.words else torch.rand(1, 3, 1, 32, 32)
    exact = logits(model, source)
    rough = logits(model.bfloat16(), source)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_what_does_not_fit_is_refused() -> None:
    language, vision = build(LANGUAGE), build(VISION)
    with pytest.raises(ConfigError, match="language model"):
        language(torch.rand(1, 3, 1, 8, 8))
    with pytest.raises(ConfigError, match="preset"):
        vision(text())
    with pytest.raises(ConfigError, match="empty"):
        language(Tokens(ids=torch.zeros(1, 0, 1, dtype=torch.long)))
    with pytest.raises(FormatError, match="outside"):
        language(Tokens(ids=torch.full((1, 2, 1), 50)))
    with pytest.raises(MediaError, match="NaN"):
        vision(torch.full((1, 3, 1, 8, 8), math.nan))
    with pytest.raises(ConfigError, match="cannot grow"):
        grow_model(vision, (11, 14, 24))
    with pytest.raises(ConfigError, match="one of pictures and words"):
        TokenFormerConfig(words=Words())
