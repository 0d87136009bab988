"""TTVSR: size, causality of its walks, any size and length, mirrored clips, official names."""

import pytest
import torch

import smalti
from smalti.backbones.ttvsr import TTVSR, Flows, TTVSRConfig
from smalti.backbones.ttvsr_layers import is_mirrored
from smalti.errors import ConfigError, MediaError
from smalti.nn.flops import count_flops
from smalti.registry import card_of

TINY = TTVSRConfig(channels=6, extract=1, blocks=1, fine=8)
STILL = TTVSRConfig(channels=6, extract=1, blocks=1, fine=8, flow="zero")


def built(config=TINY):
    return TTVSR(config).eval()


def moving(batch, frames, height, width, pixels=3.0):
    return Flows(*(torch.randn(2, batch, frames - 1, 2, height, width) * pixels).unbind(0))


def test_parameters_of_the_official_model():
    presets = card_of(TTVSR).presets
    assert presets.keys() == {"ttvsr_reds4", "ttvsr_vimeo90k"}
    for config in presets.values():
        with torch.device("meta"):
            assert TTVSR(config).params() == 6_773_615


@pytest.mark.parametrize("backward", [False, True])
def test_a_state_knows_only_what_was_walked_before(backward):
    model, flows = built(), moving(1, 8, 16, 16)
    flow = flows.backward if backward else flows.forward
    maps = list(torch.randn(8, 1, 6, 16, 16).unbind(0))
    changed = list(maps)
    changed[4] = maps[4] + 1
    with torch.no_grad():
        before, after = (list(model.propagate(x, flow, backward=backward)) for x in (maps, changed))
    untouched = 3 if backward else 4
    for number in range(8):
        assert torch.equal(before[number], after[number]) == (number < untouched), number


def test_a_far_key_frame_is_looked_at_where_it_is_alike():
    """With a trunk that forgets the state, only a key frame can tell of frames before the last."""
    model = built(STILL)
    maps = list(torch.randn(7, 1, 6, 16, 16).unbind(0))
    maps[6] = maps[0]
    flow = torch.zeros(1, 6, 2, 16, 16)
    taken = []
    model.attention.register_forward_hook(lambda module, given, out: taken.append(out - given[1]))
    with torch.no_grad():
        list(model.propagate(maps, flow))
        frames = model.attention.remember(maps[0], next(iter(model.propagate(maps[:1], flow))))
        only = model.attention(maps[6], torch.zeros_like(maps[0]), frames, torch.arange(16).view(1, 1, 4, 4))
    torch.testing.assert_close(taken[5], only, atol=1e-5, rtol=1e-4)


def test_key_frames_are_every_third_and_the_first_is_not_one_backward():
    model, counts = built(STILL), []
    model.attention.register_forward_hook(lambda module, given, out: counts.append(given[3].shape[1]))
    maps, flow = list(torch.randn(7, 1, 6, 8, 8).unbind(0)), torch.zeros(1, 6, 2, 8, 8)
    with torch.no_grad():
        list(model.propagate(maps, flow))
        list(model.propagate(maps, flow, backward=True))
    assert counts == [1, 1, 1, 2, 2, 2] * 2
    keyframes = []
    original = model.attention.remember
    model.attention.remember = lambda feature, state: keyframes.append(feature) or original(feature, state)
    with torch.no_grad():
        list(model.propagate(maps, flow))
        list(model.propagate(maps, flow, backward=True))
    walked = [next(i for i, m in enumerate(maps) if m is key) for key in keyframes]
    assert walked == [0, 3, 6, 6, 3]


@pytest.mark.parametrize("size", [(1, 16, 16), (2, 17, 23), (5, 3, 40)])
def test_any_size_and_length(size):
    frames, height, width = size
    model, clip = built(), torch.rand(2, 3, *size)
    fine = model.upscale(clip)
    assert fine.shape == (2, 3, frames, 4 * height, 4 * width)
    assert 0 <= fine.min() <= fine.max() <= 1
    with torch.no_grad():
        features = model(clip)
        assert torch.equal(model.upscale(clip, offload=True), fine)
        torch.testing.assert_close(model.restore(clip).clamp(0, 1), fine)
        torch.testing.assert_close(model.upscale(clip[:1]), fine[:1], atol=1e-4, rtol=1e-4)
    assert features.tokens.shape == (2, frames * height * width, 6)
    assert features.grid == size
    assert features.pyramid[0].shape == (2, 6, *size)


def test_one_pixel_more_does_not_change_the_rest_of_a_still_picture():
    """Sides that are continued give what the wider picture with the same columns gives."""
    model, clip = built(STILL), torch.rand(1, 3, 3, 14, 15)
    wide = torch.cat([clip, clip[..., -1:]], -1)
    wide = torch.cat([wide, wide[..., -1:, :], wide[..., -1:, :]], -2)
    with torch.no_grad():
        torch.testing.assert_close(model.restore(clip), model.restore(wide)[..., :56, :60])


def test_a_network_of_zeros_is_bilinear():
    model, clip = built(), torch.rand(1, 3, 3, 8, 12)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    wanted = torch.nn.functional.interpolate(clip[0].transpose(0, 1), scale_factor=4, mode="bilinear")
    torch.testing.assert_close(model.upscale(clip)[0].transpose(0, 1), wanted)


def test_a_mirrored_clip_needs_one_flow():
    model, half = built(), torch.rand(1, 3, 3, 32, 32)
    clip = torch.cat([half, half.flip(2)], 2)
    assert is_mirrored(clip)
    assert not is_mirrored(clip[:, :, :-1])
    assert not is_mirrored(torch.rand(1, 3, 6, 32, 32))
    calls = []
    model.spynet.register_forward_hook(lambda module, given, out: calls.append(out))
    with torch.no_grad():
        flows = model.flows(clip)
        assert len(calls) == 1
        frames = clip[0].transpose(0, 1)
        torch.testing.assert_close(flows.forward[0], model.spynet(frames[1:], frames[:-1]))
        torch.testing.assert_close(flows.backward[0], model.spynet(frames[:-1], frames[1:]))


def test_flows_of_ones_own_are_used():
    model, clip = built(), torch.rand(1, 3, 4, 16, 16)
    with torch.no_grad():
        own = model.flows(clip)
        assert torch.equal(model.restore(clip, own), model.restore(clip))
        assert not torch.equal(model.restore(clip, moving(1, 4, 16, 16)), model.restore(clip))


def test_attention_costs_a_share_that_does_not_grow_with_the_picture():
    with_it, without = built(STILL), built(TTVSRConfig(6, 1, 1, fine=8, flow="zero", attend=False))
    shares = []
    for side in (16, 32):
        clip = torch.rand(1, 3, 7, side, side)
        extra = count_flops(with_it.restore, clip) - count_flops(without.restore, clip)
        shares.append(extra / (7 * side**2))
    assert shares[0] == shares[1]
    comparisons = 2 * sum((1, 1, 1, 2, 2, 2)) * 6  # both ways, channels
    assert shares[0] * 7 == comparisons + 12 * with_it.attention.fuse.weight.numel()


@pytest.mark.parametrize(
    "config", [TINY, TTVSRConfig(6, 1, 1, stride=2, keyframe_stride=2, scales=(1.0, 2.0))]
)
def test_gradients_reach_every_parameter(config):
    model = TTVSR(config)
    (model.restore(torch.rand(1, 3, 4, 32, 32)) * torch.randn(1, 3, 4, 128, 128)).sum().backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == set()


def test_bf16_is_near_float32():
    model, clip = built(STILL), torch.rand(1, 3, 4, 16, 16)
    exact = model.upscale(clip)
    half = model.bfloat16().upscale(clip.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.05)


def official(model):
    """Its weights as the official checkpoint of a restorer names them."""
    names = (
        ("extract.", "feat_extractor.main."),
        ("trunk.", "resblocks.main."),
        ("attention.fuse.", "LTAM.fusion."),
        ("join.", "fusion."),
        ("reconstruction.first.", "upsample1.upsample_conv."),
        ("reconstruction.second.", "upsample2.upsample_conv."),
        ("reconstruction.detail.", "conv_hr."),
        ("reconstruction.last.", "conv_last."),
    )
    state = {
        "step_counter": torch.zeros(1),
        "generator.spynet.mean": torch.zeros(1, 3, 1, 1),
        "generator.spynet.std": torch.zeros(1, 3, 1, 1),
    }
    for name, tensor in model.state_dict().items():
        for ours, theirs in names:
            name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
        if name.startswith("spynet."):
            _, _, level, layer, kind = name.split(".")
            name = f"spynet.basic_module.{level}.basic_module.{int(layer) // 2}.conv.{kind}"
        state[f"generator.{name}"] = tensor
    return state


def test_an_official_checkpoint_loads(tmp_path):
    model, clip = built(), torch.rand(1, 3, 3, 16, 16)
    torch.save({"meta": {}, "state_dict": official(model)}, tmp_path / "TTVSR_REDS.pth")
    again = smalti.load_official("ttvsr", tmp_path / "TTVSR_REDS.pth")
    assert again.config == model.config
    assert torch.equal(again.upscale(clip), model.upscale(clip))
    broken = official(model)
    del broken["generator.conv_hr.bias"]
    with pytest.raises(ConfigError, match=r"reconstruction\.detail\.bias"):
        TTVSR.from_official(broken)


def test_refusals():
    clip = torch.rand(1, 3, 3, 8, 8)
    with pytest.raises(MediaError, match="NaN"):
        built().upscale(torch.full((1, 3, 2, 8, 8), torch.nan))
    with pytest.raises(MediaError, match="this clip needs"):
        built().upscale(clip, moving(1, 4, 8, 8))
    with pytest.raises(MediaError, match="not finite"):
        built().upscale(clip, Flows(*(torch.full((1, 2, 2, 8, 8), torch.inf),) * 2))
    with pytest.raises(ConfigError, match="1 or more"):
        TTVSRConfig(keyframe_stride=0)
