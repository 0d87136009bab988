"""EVAD's detector: shapes, rate one, official keys, arithmetic, gradients."""

import dataclasses

import pytest
import torch

from smalti.backbones.evad import EVAD, Detections, official_keys
from smalti.backbones.evad_parts import Encoder, EVADConfig, positions
from smalti.errors import ConfigError
from smalti.nn.set_matching import Target, detection_loss

TINY = EVADConfig(
    dim=16,
    heads=2,
    keep_rates=(1.0, 0.7, 1.0, 0.7),
    table=(3, 3),
    levels=(0, 1, 2, 3),
    proposals=5,
    steps=2,
    detector_dim=16,
    classes=4,
    decoder_dim=12,
    decoder_heads=2,
    decoder_depth=2,
    action_dim=8,
)
CLIP = (2, 3, 8, 64, 96)


def test_people_and_actions_of_a_clip():
    model = EVAD(TINY).eval()
    with torch.no_grad():
        found = model(torch.rand(CLIP))
        assert isinstance(found, Detections)
        assert [tuple(t.shape) for t in found.person] == [(2, 5, 2)] * 2
        assert [tuple(t.shape) for t in found.boxes] == [(2, 5, 4)] * 2
        assert [tuple(t.shape) for t in found.actions] == [(2, 5, 4)] * 2
        chosen = model.detect(torch.rand(2, 3, 8, 60, 90))
    assert len(chosen) == 2
    for places, score, action in chosen:
        assert len(places) == len(score) == len(action) > 0
        assert float(places[:, 2].max()) <= 89
        assert float(action.max()) <= 1


def test_counts_and_a_rate_of_one():
    encoder = Encoder(TINY).eval()
    pixels = torch.randn(CLIP)
    with torch.no_grad():
        sizes = [x.shape[1] for x, _, _ in encoder.steps(pixels)]
        assert sizes == [96, 68, 68, 48]
        whole = Encoder(dataclasses.replace(TINY, keep_rates=(1.0,) * 4)).eval()
        whole.load_state_dict(encoder.state_dict())
        encoded = whole(pixels)
        x = whole.patch_embed(pixels).flatten(2).mT + positions((4, 4, 6), 16, (3, 3))
        for block in whole.blocks:
            x = block(x)
        plain = whole.norm(x).view(2, 4, 24, 16)
    torch.testing.assert_close(encoded.tokens[:, :24], plain[:, 2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encoded.tokens[:, 24:48], plain[:, 0], atol=1e-5, rtol=1e-5)
    assert torch.equal(encoded.index[0], torch.arange(72))


def test_order_of_kept_tokens_matters_only_officially():
    torch.manual_seed(3)
    model = EVAD(TINY).eval()
    intended = EVAD(dataclasses.replace(TINY, sorted=True)).eval()
    intended.load_state_dict(model.state_dict())
    with torch.no_grad():
        pixels = torch.rand(CLIP)
        ours, theirs = intended(pixels), model(pixels)
    torch.testing.assert_close(ours.boxes[-1], theirs.boxes[-1])
    assert not torch.allclose(ours.actions[-1], theirs.actions[-1])


def official(model: EVAD) -> dict[str, torch.Tensor]:
    state = {"criterion.empty_weight": torch.ones(2)}
    for key, value in model.state_dict().items():
        key = key.replace("encoder.patch_embed.", "patch_embed.proj.").replace("encoder.", "")
        key = key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")
        for ours, theirs in (("heads.", "s0_headseries."), ("narrow.", "encoder_to_decoder.")):
            key = f"det_head.{theirs}{key.removeprefix(ours)}" if key.startswith(ours) else key
        key = f"det_head.{key}" if key.startswith(("decoder.", "mask_token")) else key
        if key.startswith("pyramid."):
            _, kind, level, rest = key.split(".")
            key = f"fpn_{kind}{int(level) + 2}.{rest}"
        if key.startswith("proposals."):
            key = f"init_proposal_{key.removeprefix('proposals.')}.weight"
        if key.endswith("qkv.bias"):
            q, _, v = value.chunk(3)
            state[key.replace("qkv.bias", "q_bias")] = q
            state[key.replace("qkv.bias", "v_bias")] = v
        else:
            state[key] = value
    return state


def test_official_keys_come_back():
    model = EVAD(dataclasses.replace(TINY, layer_scale=0.5)).eval()
    sizes = vars(TINY) | {"layer_scale": 0.5}
    again = EVAD.from_official(official(model), **sizes).eval()
    assert set(official_keys(official(model))) == set(model.state_dict())
    with torch.no_grad():
        pixels = torch.rand(CLIP)
        torch.testing.assert_close(again(pixels).actions[-1], model(pixels).actions[-1])
    with pytest.raises(ConfigError, match="no checkpoint"):
        EVAD.from_official(official(model), **(sizes | {"steps": 1}))


def macs(config: EVADConfig, grid: tuple[int, int, int]) -> float:
    """Multiply-adds of encoder and decoder, by formula."""

    def block(before: int, after: int, dim: int) -> int:
        return 4 * before * dim**2 + 2 * before**2 * dim + 8 * after * dim**2

    size, total = grid[0] * grid[1] * grid[2], 0.0
    for rate in config.keep_rates:
        left = -int(-(rate * size) // 1)
        total, size = total + block(size, left, config.dim), left
    tokens = size + config.proposals
    return total + config.decoder_depth * block(tokens, tokens, config.decoder_dim)


def test_arithmetic_falls_as_in_the_paper():
    pruned = macs(EVADConfig(), (8, 18, 24))
    assert 1 - pruned / macs(EVADConfig(keep_rates=(1.0,) * 12), (8, 18, 24)) == pytest.approx(0.43, abs=0.05)


def test_every_parameter_learns():
    pytest.importorskip("scipy")
    model = EVAD(TINY).train()
    found = model(torch.rand(CLIP))
    target = Target(torch.tensor([[5.0, 5, 40, 60]]), torch.tensor([[1.0, 0, 0, 1]]))
    size = torch.tensor([[96.0, 64.0]]).repeat(2, 1)
    sum(detection_loss(*found, [target, target], size).values()).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None]
    assert still == []


def test_refusals():
    with pytest.raises(ConfigError, match="even number"):
        EVAD(TINY)(torch.rand(1, 3, 6, 64, 64))
    with pytest.raises(ConfigError, match="keep_rates"):
        EVADConfig(keep_rates=(0.0,))
