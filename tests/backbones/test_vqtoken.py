"""VQToken's attention over codebook and token hash."""

import pytest
import torch

import smalti
from smalti.backbones.vqtoken import VQToken, VQTokenConfig
from smalti.errors import ConfigError, FormatError
from smalti.reducers.vqtoken import VQTokenConfig as Codes
from tests.reducers.test_vqtoken import scene

GRID = (4, 6, 6)


def model(attention, codes=None):
    torch.manual_seed(0)
    found = Codes(codes=5) if codes is None else codes
    config = VQTokenConfig(dim=24, heads=4, grid=GRID, attention=attention, hidden=32, discretiser=found)
    return VQToken(config).eval()


@pytest.mark.parametrize(("attention", "length"), [("paper", 5), ("decoder", 5), ("none", 5)])
def test_shapes_and_the_way_back(attention, length):
    tokens, label = scene(5)
    found = model(attention)(tokens, GRID)
    assert found.values.shape == (1, length, 24)
    assert torch.equal(found.index.flatten(1), label)
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    assert (found.reduction.restore(found.codebook) - unit).norm(dim=-1).max() < 0.2


@pytest.mark.parametrize(("attention", "sees"), [("paper", True), ("decoder", True), ("none", False)])
def test_only_the_attention_sees_the_order_of_frames(attention, sees):
    tokens, _ = scene(5)
    frames = tokens.unflatten(1, (4, -1)).clone()
    frames[:, 1, :9] = frames[:, 0, -9:]  # something moves
    shuffled = frames[:, [0, 2, 3, 1]]
    built = model(attention)
    first, second = (built(x.flatten(1, 2), GRID) for x in (frames, shuffled))
    assert torch.equal(second.index, first.index[:, [0, 2, 3, 1]])
    torch.testing.assert_close(first.codebook, second.codebook)
    assert torch.allclose(first.values, second.values, atol=1e-5) != sees


def test_videos_of_a_batch_stay_apart():
    tokens = torch.cat([scene(4)[0], scene(9)[0]])
    built = model("paper", Codes(codes=None, least=3, most=14))
    both, alone = built(tokens, GRID), built(tokens[:1], GRID)
    assert both.mask.sum(1).tolist() == [4, 9]
    torch.testing.assert_close(both.values[:1, :4], alone.values)
    assert not both.values[~both.mask].any()


def test_other_grids_are_resized_in_paper_mode():
    tokens = torch.randn(1, 2 * 3 * 3, 24)
    assert model("paper")(tokens, (2, 3, 3)).values.shape == (1, 5, 24)
    with pytest.raises(ConfigError, match="tokens do not lie"):
        model("paper")(tokens, (2, 3, 4))
    with pytest.raises(ConfigError, match="frames of 9 tokens"):
        model("decoder")(tokens, (2, 3, 3))
    with pytest.raises(ConfigError, match="built for 5"):
        model("paper")(torch.randn(1, 18, 24), (2, 3, 3), count=6)


def test_gradients_reach_tokens_and_attention():
    tokens = scene(5)[0].requires_grad_()
    built = model("paper")
    built(tokens, GRID).values.square().sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())


def test_weights_inside_a_whole_checkpoint():
    built = model("decoder")
    state = {f"model.cross_attention.{k}": v for k, v in built.attention.state_dict().items()}
    state["model.layers.0.weight"] = torch.zeros(3)
    loaded = VQToken.from_official(state, heads=4, grid=GRID, discretiser=Codes(codes=5))
    tokens, _ = scene(5)
    torch.testing.assert_close(loaded(tokens, GRID).values, built(tokens, GRID).values)
    with pytest.raises(FormatError, match="to_q_proj"):
        VQToken.from_official({"model.layers.0.weight": torch.zeros(3)})


def test_the_registry_knows_both_halves():
    assert smalti.create("vqtoken", room="reducers").config.codes == 32
    assert smalti.registry.card("vqtoken", "backbones").cls is VQToken
