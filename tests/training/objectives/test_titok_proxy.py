"""Both stages of TiTok and One-D-Piece, on a proxy that is trained for a moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from smalti import weights
from smalti.errors import ConfigError
from smalti.quantizers.vq import VectorQuantizerConfig
from smalti.tokenizers.one_d_piece import OneDPiece, OneDPieceConfig
from smalti.tokenizers.one_dimensional import ProxyConfig
from smalti.tokenizers.titok import TiTok, TiTokConfig
from smalti.tokenizers.titok_proxy import ProxyVQGAN
from smalti.training import recipe, train
from smalti.training.objectives.autoencoder import AutoencoderObjective, AutoencoderOptions
from smalti.training.objectives.titok_proxy import TiTokProxyObjective, TiTokProxyOptions
from smalti.training.sources import crops
from tests.tokenizers.tiny_titok import TINY
from tests.training import made
from tests.training.objectives.steps import shapes, trained

SIZES = {**TINY, "quantizer": VectorQuantizerConfig(64, 4, learn="gradient", normalize=True)}
RECIPE = Path(__file__).parents[3] / "recipes" / "titok" / "two_stage.yaml"


class Same:
    """A source of one batch."""

    def batch(self, step: int, seed: int = 0) -> dict[str, Tensor]:
        return {"pictures": shapes(4, 16)}


def test_the_proxy_learns_pictures_and_the_tokens_learn_its_codes_alone() -> None:
    tokenizer = TiTok(TiTokConfig(**SIZES))
    objective = TiTokProxyObjective(tokenizer, TiTokProxyOptions(proxy_steps=40, proxy_rate=3e-3))
    pictures = Same().batch(0)["pictures"][:, :, 0]
    before = (objective.proxy.decode(objective.proxy.encode(pictures)) - pictures).abs().mean()
    objective.start(Same())
    proxy = {name: value.clone() for name, value in objective.proxy.state_dict().items()}
    after = (objective.proxy.decode(objective.proxy.encode(pictures)) - pictures).abs().mean()
    assert after < 0.4 * before
    assert len(objective.proxy.encode(pictures).unique()) > 4

    painter = {k: v.clone() for k, v in tokenizer.state_dict().items() if k.startswith("proxy_")}
    log = trained(objective, Same().batch(0), 40)
    assert log[-1]["codes"] < 0.5 * log[0]["codes"]
    assert log[-1]["right"] > log[0]["right"] + 0.3
    assert all(torch.equal(value, proxy[name]) for name, value in objective.proxy.state_dict().items())
    assert all(torch.equal(value, tokenizer.state_dict()[name]) for name, value in painter.items())
    for part in ("encoder.latents", "quantizer.codebook", "decoder.mask_token", "head.2.weight"):
        assert tokenizer.get_parameter(part).grad is not None, part

    objective.finish(tokenizer)
    assert torch.equal(tokenizer.proxy_codes, proxy["quantizer.codebook"])
    rows = objective.eval().samples(Same().batch(0))
    assert rows.shape == (4, 3, 3, 16, 16)
    told = tokenizer.render(tokenizer.predict(tokenizer.quantize(pictures).values)).clamp(0, 1)
    assert (told - pictures).abs().mean() < 2.5 * after  # the handed-over decoder paints at once


def test_one_d_piece_reads_the_first_tokens_in_training_alone(monkeypatch) -> None:
    tokenizer = OneDPiece(OneDPieceConfig(**SIZES))
    objective = TiTokProxyObjective(tokenizer).train()
    monkeypatch.setattr(tokenizer, "draw", lambda count: torch.full((count,), 2))
    read = []
    tokenizer.decoder.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[1]))
    loss = objective(Same().batch(0))
    loss.total.backward()
    objective.eval()(Same().batch(0))
    assert read == [2, 6]
    last = tokenizer.encoder.latents.grad
    assert last is not None
    assert last[2:].abs().max() > 0  # the quantizer's loss is of all tokens


def test_a_given_proxy_is_taken_and_other_sizes_are_refused(tmp_path) -> None:
    given = ProxyVQGAN(SIZES["proxy"])
    official = {f"encoder.{k}": v for k, v in given.encoder.state_dict().items()}
    official |= {f"decoder.{k}": v for k, v in given.decoder.state_dict().items()}
    official["quantize.embedding.weight"] = given.quantizer.codebook.detach()
    save_file(official, tmp_path / "proxy.safetensors")
    options = TiTokProxyOptions(str(tmp_path / "proxy.safetensors"))
    objective = TiTokProxyObjective(TiTok(TiTokConfig(**SIZES)), options)
    objective.start(Same())
    for name, value in objective.proxy.state_dict().items():
        torch.testing.assert_close(value, given.state_dict()[name], rtol=0, atol=0)
    config = TiTokConfig(**SIZES)
    with pytest.raises(ConfigError, match=r"proxy\.safetensors is a proxy of"):
        TiTokProxyObjective(TiTok(replace(config, proxy=ProxyConfig(8, 32, 32, (1, 1, 2), 1))), options)
    with pytest.raises(ConfigError, match="do not stand for patches of 8"):
        TiTokProxyObjective(TiTok(replace(config, patch=8)))
    with pytest.raises(ConfigError, match="predicts pixels"):
        TiTokProxyObjective(TiTok(replace(config, proxy=None)))


@pytest.mark.parametrize("kind", [TiTok, OneDPiece])
def test_the_second_stage_moves_the_decoders_alone(kind) -> None:
    tokenizer = kind(kind.config_class(**SIZES))
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    options = AutoencoderOptions(pixel="l2", bottleneck=0.0, frozen=("encoder", "quantizer"))
    objective = AutoencoderObjective(tokenizer, options)
    log = trained(objective, Same().batch(0), 15)
    assert log[-1]["total"] < 0.7 * log[0]["total"]
    assert not tokenizer.encoder.training
    assert tokenizer.training
    moved = {name for name, value in tokenizer.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"decoder", "head", "proxy_codes", "proxy_decoder"}
    objective.finish(tokenizer)
    assert all(parameter.requires_grad for parameter in tokenizer.parameters())


@pytest.mark.parametrize("system", ["titok", "one-d-piece"])
def test_the_recipe_runs_both_stages(system: str, tmp_path, monkeypatch) -> None:
    root = tmp_path / "corpus"
    root.mkdir()
    photos = made.photos(root)
    monkeypatch.setattr(crops, "assemble", lambda name: photos)
    few = {"steps": 2, "log_every": 1, "save_every": 2}
    overrides = {
        "system": system,
        "preset": None,
        "changes.encoder": {"width": 16, "depth": 1, "heads": 2},
        "changes.decoder": {"width": 16, "depth": 1, "heads": 2},
        "stages.codes.objective.options.proxy_steps": 2,
    }
    for stage in ("codes", "pixels"):
        overrides |= {f"stages.{stage}.loop.{name}": value for name, value in few.items()}
        overrides |= {f"stages.{stage}.data.options.pictures": 2}
    stages = recipe.load(RECIPE).stages
    assert [stage.objective.name for stage in stages.values()] == ["titok-proxy", "autoencoder"]
    path = train.train(RECIPE, overrides, tmp_path / "runs")
    state = torch.load(path.parent / "codes" / "checkpoint.pt", weights_only=True)["average"]
    model = weights.read(path)
    first = {
        name.removeprefix("tokenizer."): value
        for name, value in state.items()
        if name.startswith("tokenizer.")
    }
    for name, value in model.named_parameters():
        if name.startswith(("encoder.", "quantizer.")):
            torch.testing.assert_close(value, first[name], rtol=0, atol=0)
    assert not torch.equal(model.head[0].weight, first["head.0.weight"])
    pixels = torch.rand(1, 3, 1, 40, 33)
    assert model.decode(model.encode(pixels)).shape == pixels.shape
