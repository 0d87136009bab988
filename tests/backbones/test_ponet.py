"""PoNet: what each granularity sees, padding, pictures, official layouts, sizes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from smalti.backbones.ponet import PoNet, text_segments
from smalti.backbones.ponet_mixing import Places, PoNetMixer
from smalti.backbones.ponet_sizes import PRESETS, PoNetConfig, PoNetPictures, PoNetWords
from smalti.errors import ConfigError, FormatError
from smalti.tokens import Tokens

SMALL = {"dim": 24, "depth": 2, "heads": 3, "hidden": 32}
TEXT = PoNetConfig(**SMALL, words=PoNetWords(60, 40, separators=(1, 2)))
ARENA = PoNetConfig(
    **SMALL,
    pre_norm=True,
    pooling="padded-mean",
    head="classify",
    classes=4,
    eps=1e-5,
    words=PoNetWords(60, 40, 0, (), 3),
)
PAIR = dataclasses.replace(ARENA, head="pair")
PICTURES = PoNetConfig(
    **SMALL,
    pre_norm=True,
    pooling="mean",
    head="classify",
    classes=4,
    words=None,
    pictures=PoNetPictures(32, 4, 3),
)
FORMS = pytest.mark.parametrize("config", [TEXT, ARENA, PICTURES], ids=["text", "arena", "pictures"])


def build(config: PoNetConfig) -> PoNet:
    model = PoNet(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)  # weights that start small would hide mistakes
    return model


def text(length: int = 12) -> Tokens:
    ids = torch.randint(3, 60, (2, length, 1))
    ids[:, 0], ids[:, -1], ids[:, length // 2] = 1, 2, 2
    return Tokens(ids=ids)


def example(config: PoNetConfig):
    return torch.rand(2, 3, 1, 32, 32) if config.words is None else text()


def mixer_of(*kept: str) -> PoNetMixer:
    """A mixer whose other granularities give nothing."""
    mixer = PoNetMixer(12, 2)
    for name, part in zip(("q", "whole", "o", "segment", "local"), range(5), strict=True):
        if name in ("whole", "segment", "local") and name not in kept:
            rows = slice(part * 12, (part + 1) * 12)
            torch.nn.init.zeros_(mixer.maps.weight[rows].detach())
            torch.nn.init.zeros_(mixer.maps.bias[rows].detach())
    return mixer


def reach(mixer: PoNetMixer, places: Places, at: int = 5) -> list[int]:
    """Tokens whose output a change of one token moves."""
    x = torch.randn(1, 12, 12)
    changed = x.clone()
    changed[0, at] += 9
    with torch.no_grad():
        moved = (mixer(x, places) - mixer(changed, places)).abs().amax(-1)[0] > 1e-6
    return moved.nonzero()[:, 0].tolist()


def test_what_every_granularity_sees() -> None:
    assert reach(mixer_of("local"), Places()) == [4, 5, 6]
    assert reach(mixer_of("segment"), Places(pieces=2)) == [0, 1, 2, 3, 4, 5, 6]
    index = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]])
    assert reach(mixer_of("segment"), Places(index)) == [4, 5, 6]
    assert reach(mixer_of("whole"), Places()) == list(range(12))
    grid = Places(grid=(3, 4), window=2)
    assert reach(mixer_of("local"), grid) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert reach(mixer_of("segment"), grid) == [0, 1, 4, 5]


def test_separators_pass_the_whole_alone() -> None:
    special = torch.arange(12)[None] == 6
    index = torch.tensor([[0] * 6 + [1] + [2] * 5])
    places = Places(index, special=special)
    assert 6 not in reach(mixer_of("local"), places)
    assert reach(mixer_of("segment", "local"), places, at=6) == []
    assert 6 in reach(mixer_of("whole"), places)


def test_order_within_a_segment_does_not_matter_without_neighbours() -> None:
    mixer, x = mixer_of("whole", "segment"), torch.randn(1, 12, 12)
    order = torch.cat([torch.randperm(5), 5 + torch.randperm(7)])
    places = Places(torch.tensor([[0] * 5 + [1] * 7]))
    torch.testing.assert_close(mixer(x[:, order], places), mixer(x, places)[:, order])


def test_padding_changes_no_real_token() -> None:
    model, tokens = build(TEXT), text()
    padded = Tokens(
        ids=torch.cat([tokens.ids, torch.full((2, 5, 1), 7)], 1),
        mask=(torch.arange(17) < 12).expand(2, -1),
    )
    with torch.no_grad():
        plain, ragged = model(tokens), model(padded)
    torch.testing.assert_close(ragged.tokens[:, :12], plain.tokens)
    torch.testing.assert_close(ragged.pooled, plain.pooled)


def test_means_of_padded_texts() -> None:
    mask = (torch.arange(12) < 8).expand(2, -1)
    tokens = dataclasses.replace(text(), mask=mask)
    official = build(ARENA)
    ours = PoNet(dataclasses.replace(ARENA, pooling="mean")).eval()
    ours.load_state_dict(official.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens).pooled * 8 / 12, official(tokens).pooled)
        nothing = official(dataclasses.replace(tokens, mask=torch.zeros(2, 12, dtype=torch.bool)))
    assert torch.isfinite(nothing.tokens).all()


def test_segments_of_texts() -> None:
    ids = torch.tensor([[1, 5, 6, 2, 7, 8, 2], [5, 6, 1, 2, 7, 2, 2]])
    assert text_segments(ids, (1, 2)).tolist() == [[0, 1, 1, 2, 3, 3, 4], [0, 0, 1, 2, 3, 4, 5]]


def test_given_segments_and_types_are_used() -> None:
    model, tokens = build(TEXT), text()
    with torch.no_grad():
        usual = model(tokens).tokens
        same = model.read(tokens, segments=text_segments(tokens.ids[..., 0], (1, 2))).tokens
        other = model.read(tokens, segments=torch.zeros(2, 12, dtype=torch.long)).tokens
        typed = model.read(tokens, types=torch.ones(2, 12, dtype=torch.long)).tokens
    assert torch.equal(same, usual)
    assert (other - usual).abs().max() > 1e-3
    assert (typed - usual).abs().max() > 1e-3


def test_values_enter_behind_the_embedding() -> None:
    model, pixels = build(PICTURES), torch.rand(1, 3, 1, 32, 32)
    frames = model.normalise(pixels)[:, :, 0]
    values = model.patches(frames).flatten(2).mT + model.positions
    with torch.no_grad():
        whole = model(pixels)
        again = model(Tokens(values=values, grid=(1, 8, 8)))
    torch.testing.assert_close(again.tokens, whole.tokens)
    assert again.grid == whole.grid == (1, 8, 8)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 32, 32), (3, 20, 40), (2, 17, 33), (1, 1, 1)])
def test_any_size_and_length(frames, height, width) -> None:
    model = build(PICTURES)
    with torch.no_grad():
        features = model(torch.rand(2, 3, frames, height, width))
    assert features.grid == (frames, -(-height // 4), -(-width // 4))
    assert model.classify(features).shape == (2, 4)
    assert torch.isfinite(features.tokens).all()


def test_parameters_and_arithmetic_of_the_text_encoder() -> None:
    with torch.device("meta"):
        model = PoNet(PRESETS["base-uncased"])
        arena = PoNet(PRESETS["lra-text"])
    assert model.params() / 1e6 == pytest.approx(124.4, rel=0.02)
    assert (
        arena.params()
        == 512 * 64 + 4000 * 64 + 2 * (24_960 + 16_576 + 256) + 128 + 64 * 128 + 128 + 2 * 128 + 2
    )
    short, long = (model.flops((1, n)) for n in (128, 512))
    assert short / 1e9 == pytest.approx(128 * 14 * 768 * 768 * 12 / 1e9, rel=0.02)
    assert long == 4 * short - 3 * 768 * 768  # linear in tokens, but for the pooler


OFFICIAL = {
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "sentence": "embeddings.token_type_embeddings",
}


def bert(model: PoNet) -> dict[str, torch.Tensor]:
    """The model's tensors under the names of the text encoder."""
    state, parts = {}, ("q", "k", "o", "segment", "local")
    inner = {
        "mixer.proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "norm2": "output.LayerNorm",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    heads = {
        "masked_words.dense": "cls.predictions.transform.dense",
        "masked_words.norm": "cls.predictions.transform.LayerNorm",
        "masked_words.decoder": "cls.predictions.decoder",
        "pooler": "ponet.pooler.dense",
        "head": "cls.seq_relationship",
        "norm": "ponet.embeddings.LayerNorm",
    }
    for name, tensor in model.state_dict().items():
        home, _, kind = name.rpartition(".")
        if home in heads:
            state[f"{heads[home]}.{kind}"] = tensor
        elif home in OFFICIAL:
            state[f"ponet.{OFFICIAL[home]}.{kind}"] = tensor
        else:
            _, number, rest = home.split(".", 2)
            block = f"ponet.encoder.layer.{number}."
            if rest == "mixer.maps":
                for part, rows in zip(parts, tensor.chunk(5), strict=True):
                    state[f"{block}attention.self.dense_{part}.{kind}"] = rows
            else:
                state[f"{block}{inner[rest]}.{kind}"] = tensor
    state["cls.predictions.bias"] = state["cls.predictions.decoder.bias"]
    state["ponet.embeddings.position_ids"] = torch.arange(40)[None]
    return state


def arena(model: PoNet) -> dict[str, torch.Tensor]:
    """The model's tensors under the names of the Long Range Arena."""
    state, parts = {}, ("W_q", "W_k", "W_v", "W_segment", "W_local")
    inner = {"mixer.proj": "mha.ff", "mlp.fc1": "mlpblock.0", "mlp.fc2": "mlpblock.3"}
    for name, tensor in model.state_dict().items():
        home, _, kind = name.rpartition(".")
        if home.startswith("head"):
            state[f"seq_classifer.mlpblock.{home[-1]}.{kind}"] = tensor
        elif home.startswith("blocks"):
            _, number, rest = home.split(".", 2)
            if rest == "mixer.maps":
                for part, rows in zip(parts, tensor.chunk(5), strict=True):
                    state[f"model.transformer_{number}.mha.{part}.{kind}"] = rows
            else:
                state[f"model.transformer_{number}.{inner.get(rest, rest)}.{kind}"] = tensor
        else:
            state[f"model.{OFFICIAL.get(home, home)}.{kind}"] = tensor
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("config", [TEXT, ARENA, PAIR], ids=["text", "arena", "pair"])
def test_official_names_load(config, prefix) -> None:
    model = build(config)
    state = {prefix + name: t for name, t in (bert if config is TEXT else arena)(model).items()}
    loaded = PoNet.from_official(state, heads=3, words=config.words).eval()
    assert loaded.config == model.config
    tokens = text()
    with torch.no_grad():
        one, other = (m(tokens) for m in (loaded, model))
        assert torch.equal(one.tokens, other.tokens)
        pair = (one,) if config is PAIR else ()
        assert torch.equal(loaded.classify(one, *pair), model.classify(other, *pair))
        if config is TEXT:
            assert loaded.masked_words(one.tokens).shape == (2, 12, 60)
    gone = next(name for name in state if "norm1.weight" in name or "intermediate.dense.bias" in name)
    del state[gone]
    with pytest.raises(ConfigError, match="missing"):
        PoNet.from_official(state, heads=3)


@FORMS
def test_gradients_reach_all(config) -> None:
    model = build(config)
    features = model(example(config))
    loss = model.classify(features).square().sum()
    if model.masked_words is not None:
        loss = loss + model.masked_words(features.tokens).square().mean()
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@FORMS
def test_bf16_runs_near_float32(config) -> None:
    model, source = PoNet(config).eval(), example(config)
    with torch.no_grad():
        exact, rough = model(source).tokens, model.bfloat16()(source).tokens
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).norm() < 0.05 * exact.norm()


def test_what_does_not_fit_is_refused() -> None:
    model = build(TEXT)
    with pytest.raises(ConfigError, match="longer than 40"):
        model(text(41))
    with pytest.raises(ConfigError, match="empty"):
        model(Tokens(ids=torch.zeros(1, 0, 1, dtype=torch.long)))
    with pytest.raises(FormatError, match="outside"):
        model(Tokens(ids=torch.full((1, 2, 1), 60)))
    with pytest.raises(ConfigError, match="numbered 0 to 11"):
        model.read(text(), segments=torch.full((2, 12), 12))
    with pytest.raises(ConfigError, match="picture-s"):
        model(torch.rand(1, 3, 1, 8, 8))
    with pytest.raises(ConfigError, match="values of 24"):
        build(PICTURES)(text())
    with pytest.raises(ConfigError, match="number of features"):
        build(PAIR).classify(build(PAIR)(text()))
    with pytest.raises(ConfigError, match="no checkpoint"):
        PoNet.from_official({"weight": torch.zeros(2)})
    for wrong in ({"kernel": 2}, {"heads": 5}, {"pictures": PoNetPictures()}):
        with pytest.raises(ConfigError):
            dataclasses.replace(TEXT, **wrong)
