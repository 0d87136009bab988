"""UniFormerV2: sizes of the presets, what mixes over time and what does not, CLIP's weights, any size."""

import dataclasses

import pytest
import torch
from torch import nn

from smalti.backbones.uniformerv2 import UniFormerV2, UniFormerV2Config
from smalti.backbones.uniformerv2_blocks import GlobalUniBlock, LocalMHRA, LocalUniBlock
from smalti.backbones.uniformerv2_keys import clip_pictures, reduction
from smalti.errors import ConfigError, MediaError
from smalti.nn.flops import block_flops, count_flops
from smalti.registry import card_of

SCENE = UniFormerV2Config(24, 3, 3, 8, 32, read_layers=(1, 2), reader_heads=2, classes=5)
MOTION = dataclasses.replace(SCENE, temporal_downsample=True, local=2)
PRESETS = card_of(UniFormerV2).presets
FROZEN = dataclasses.replace(SCENE, frozen=True)


def awake(module: nn.Module) -> nn.Module:
    """With weights where training begins with zeros, and statistics that are not 0 and 1."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return module.eval()


def without_positions(model: UniFormerV2) -> UniFormerV2:
    for block in model.reader.blocks:
        nn.init.zeros_(block.position.weight)
        nn.init.zeros_(block.position.bias)
    return model


def preset(name: str) -> UniFormerV2:
    with torch.device("meta"):
        return UniFormerV2(PRESETS[name])


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("k400_b16_f8x224", 115),
        ("k400+k710_l14_f8x224", 354),
        ("ssv2_b16_f16x224", 163),
        ("ssv2_l14_f16x224", 574),
    ],
)
def test_parameters_of_the_presets(name, millions):
    assert preset(name).params() / 1e6 == pytest.approx(millions, rel=0.02)


def spared(model: UniFormerV2, tokens: int) -> int:
    """Keys and values that a plain port would have computed, less what asks instead of them."""
    config = model.config
    plain = 2 * tokens * config.width**2 + 2 * tokens * config.width
    ours = 2 * config.width**2 + 2 * tokens * config.reader_heads * config.width
    return len(config.read_layers) * (plain - ours)


@pytest.mark.parametrize(
    ("name", "frames", "views", "tera"),
    [
        ("k400_b16_f8x224", 8, 12, 1.8),
        ("k400+k710_l14_f8x224", 8, 12, 8.0),
        ("ssv2_b16_f16x224", 16, 3, 0.6),
        ("ssv2_l14_f16x224", 16, 3, 2.6),
    ],
)
def test_multiply_adds_of_the_presets(name, frames, views, tera):
    """Of all views of a clip, which the paper rounds to a tenth."""
    model = preset(name)
    slices = frames // 2 if model.config.temporal_downsample else frames
    whole = model.flops((1, 3, frames, 224, 224)) + spared(model, slices * (1 + model.side**2))
    assert views * whole / 1e12 == pytest.approx(tera, rel=0.01, abs=0.05)


def test_multiply_adds_by_hand():
    model, slices, d = preset("ssv2_b16_f16x224"), 8, 768
    patches = slices * 196
    local = patches * (2 * d * 512 + 3 * 512)
    block = slices * block_flops(197, d) + 2 * local
    heads = 2 * d * d + 2 * slices * 197 * 12 * d + 2 * d * d
    read = patches * 27 * d + heads + 8 * d * d
    by_hand = patches * d * 3 * 3 * 256 + 12 * block + 8 * read
    assert model.flops((1, 3, 16, 224, 224)) == pytest.approx(by_hand, rel=0.001)


def test_every_preset_can_be_built():
    for name, config in PRESETS.items():
        model = preset(name)
        assert model.config == config
        assert (model.reader.balance is None) == name.startswith("frozen")


@pytest.mark.parametrize("local", [0, 2])
def test_at_the_start_it_is_the_picture_tower_and_repeated_frames_change_nothing(local):
    model = UniFormerV2(dataclasses.replace(SCENE, local=local)).eval()
    picture = torch.randn(2, 3, 1, 32, 32)
    with torch.no_grad():
        first, last = model.encode(picture), model.encode(picture.expand(-1, -1, 5, -1, -1))
        x, _ = model.embed(picture)
        x = x[:, 0]
        for block in model.blocks:
            x = block.image(x)
    torch.testing.assert_close(first.tokens, x)
    torch.testing.assert_close(last.pooled, first.pooled)
    torch.testing.assert_close(last.pooled, x[:, 0] / 2)


def test_a_global_block_leaves_the_query_at_the_start():
    block, query = GlobalUniBlock(24, 3).eval(), torch.randn(2, 1, 24)
    tokens = torch.randn(2, 4, 10, 24)
    assert torch.equal(block(query, tokens, (3, 3)), query)
    assert not torch.equal(awake(block)(query, tokens, (3, 3)), query)


def test_local_relations_see_the_slice_before_and_after_at_their_own_place():
    local = awake(LocalMHRA(12))
    volume = torch.randn(1, 12, 6, 3, 4)
    other = volume.clone()
    other[:, :, 3, 1, 2] += 1
    with torch.no_grad():
        moved = (local(other) - local(volume)).abs().amax((0, 1)) > 1e-6
    expected = torch.zeros(6, 3, 4, dtype=torch.bool)
    expected[2:5, 1, 2] = True
    assert torch.equal(moved, expected)


def test_local_relations_stand_before_attention_and_after_it():
    x = torch.randn(2, 4, 10, 12)
    for count in (0, 1, 2):
        block = awake(LocalUniBlock(12, 3, count))
        assert [block.local1 is not None, block.local2 is not None] == [count > 0, count > 1]
        with torch.no_grad():
            y = x
            for local, half in ((block.local1, block.image.attend), (block.local2, block.image.feed)):
                if local is not None:
                    volume = y[:, :, 1:].permute(0, 3, 1, 2).unsqueeze(-1)
                    added = local(volume).squeeze(-1).permute(0, 2, 3, 1)
                    y = torch.cat([y[:, :, :1], y[:, :, 1:] + added], 2)
                y = half(y.flatten(0, 1)).view_as(y)
            torch.testing.assert_close(block(x), y)


def test_reading_is_linear_in_the_tokens():
    block, query = GlobalUniBlock(24, 3), torch.randn(1, 1, 24)
    cost = [count_flops(block, query, torch.randn(1, t, 10, 24), (3, 3)) for t in (4, 8, 16)]
    assert cost[2] - cost[1] == 2 * (cost[1] - cost[0])


@pytest.mark.parametrize("name", ["scene", "positions", "local"])
def test_order_of_frames_counts_only_where_something_looks_along_time(name):
    local = {"scene": 0, "positions": 0, "local": 1}[name]
    model = awake(UniFormerV2(dataclasses.replace(SCENE, local=local)))
    if name != "positions":
        without_positions(model)
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        ahead, back = (model.logits(model.encode(x).pooled) for x in (clip, clip[:, :, [2, 0, 3, 1]]))
    assert torch.allclose(ahead, back, atol=1e-5) == (name == "scene")


def test_the_reader_reads_layers_in_turn():
    model = awake(UniFormerV2(SCENE))
    clip = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        steps = list(model.steps(clip))
        token = model.reader([steps[i].tokens for i in SCENE.read_layers], (4, 4))
        torch.testing.assert_close(token, model.encode(clip).pooled)
        share = model.reader.balance.sigmoid()
        mean = steps[-1].tokens[:, :, 0].mean(1)
        torch.testing.assert_close(token, (1 - share) * steps[-1].query[:, 0] + share * mean)
    with pytest.raises(ConfigError, match="reads 2 layers, not 1"):
        model.reader([steps[0].tokens], (4, 4))


def test_a_frozen_tower_learns_nothing_and_is_not_mixed_in():
    model = UniFormerV2(FROZEN)
    assert model.reader.balance is None
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # what starts at zero passes nothing on at first
        optimiser.zero_grad()
        (model.classify(torch.rand(2, 3, 2, 32, 32)) * torch.randn(2, 5)).sum().backward()
        optimiser.step()
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"reader", "head"}


@pytest.mark.parametrize("config", [SCENE, MOTION])
def test_gradients_reach_every_parameter(config):
    model = awake(UniFormerV2(config)).train()
    (model.classify(torch.rand(2, 3, 4, 32, 32)) * torch.randn(2, 5)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 20), (4, 9, 33), (5, 64, 48)])
@pytest.mark.parametrize("config", [SCENE, MOTION])
def test_any_size_and_length(config, shape):
    features = awake(UniFormerV2(config))(torch.rand(2, 3, *shape))
    slices = -(-shape[0] // 2) if config.temporal_downsample else shape[0]
    grid = (slices, -(-shape[1] // 8), -(-shape[2] // 8))
    assert features.grid == grid
    assert features.prefix == slices
    assert features.tokens.shape == (2, slices * (1 + grid[1] * grid[2]), 24)
    assert features.pooled.isfinite().all()


def test_features_hold_class_tokens_first():
    model, clip = awake(UniFormerV2(SCENE)), torch.randn(1, 3, 3, 32, 32)
    with torch.no_grad():
        features, (*_, last) = model.encode(clip), model.steps(clip)
    assert torch.equal(features.tokens[:, :3], last.tokens[:, :, 0])
    assert torch.equal(features.tokens[:, 3 + 16 : 3 + 32], last.tokens[:, 1, 1:])


def test_pixels_are_normalised_as_officially():
    model, pixels = awake(UniFormerV2(SCENE)), torch.rand(1, 3, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(pixels).pooled, model.encode((pixels - 0.45) / 0.225).pooled)


def clip_state(config: UniFormerV2Config, side: int) -> dict[str, torch.Tensor]:
    """A CLIP's picture tower with some of its text tower."""
    d, p = config.width, config.patch
    state = {
        "visual.conv1.weight": torch.randn(d, 3, p, p),
        "visual.class_embedding": torch.randn(d),
        "visual.positional_embedding": torch.randn(1 + side**2, d),
        "visual.ln_post.weight": torch.randn(d),
        "visual.proj": torch.randn(d, 7),
        "transformer.resblocks.0.ln_1.weight": torch.randn(9),
        "logit_scale": torch.tensor(4.0),
    }
    for part in ("weight", "bias"):
        state[f"visual.ln_pre.{part}"] = torch.randn(d)
    shapes = {"attn.in_proj": (3 * d, d), "attn.out_proj.": (d, d), "mlp.c_fc.": (4 * d, d)}
    shapes |= {"mlp.c_proj.": (d, 4 * d), "ln_1.": (d,), "ln_2.": (d,)}
    for number in range(config.depth):
        for name, shape in shapes.items():
            end = "_" if name.endswith("proj") else ""
            front = f"visual.transformer.resblocks.{number}.{name}{end}"
            state[f"{front}weight"] = torch.randn(shape) * 0.2
            state[f"{front}bias"] = torch.randn(shape[0]) * 0.2
    return state


def test_clips_weights_are_where_training_begins():
    state = clip_state(MOTION, 4)
    model, still = UniFormerV2(MOTION).eval(), UniFormerV2(SCENE).eval()
    for one in (model, still):
        one.load_clip(state)
    picture = torch.randn(1, 3, 1, 32, 32)
    with torch.no_grad():
        seen = still.encode(picture).pooled
        torch.testing.assert_close(model.encode(picture).pooled, seen)  # the middle frame alone counts
        model.load_clip({n.removeprefix("visual."): t for n, t in state.items() if "visual." in n}, "average")
        whole = model.encode(picture.expand(-1, -1, 5, -1, -1))
        torch.testing.assert_close(whole.tokens[:, 1], still.encode(picture).tokens[:, 0])
    inflated = clip_pictures(state, 3, 4, centred=False)["patches.weight"]
    torch.testing.assert_close(inflated.sum(2), state["visual.conv1.weight"])
    assert torch.equal(model.patches.weight, inflated)
    torch.testing.assert_close(
        model.blocks[2].image.mlp.fc1.bias, state["visual.transformer.resblocks.2.mlp.c_fc.bias"]
    )


def test_clips_positions_are_resampled_to_another_size():
    model, state = UniFormerV2(SCENE), clip_state(SCENE, 7)
    model.load_clip(state)
    assert torch.equal(model.position[0], state["visual.positional_embedding"][0])
    assert model.position.shape == (17, 24)
    shallow = {name: tensor for name, tensor in state.items() if "resblocks.2" not in name}
    for broken in (
        {"x": torch.zeros(1)},
        shallow,
        clip_state(dataclasses.replace(SCENE, width=12, heads=3), 4),
    ):
        with pytest.raises(ConfigError):
            model.load_clip(broken)


@pytest.mark.parametrize(("width", "inner"), [(24, 16), (768, 512), (1024, 682), (16, 8), (7, 3)])
def test_a_checkpoint_tells_the_reduction(width, inner):
    assert int(width // reduction(width, inner)) == inner
    assert reduction(1024, 682) == 1.5


def test_bf16_is_near_float32():
    model, pixels = awake(UniFormerV2(MOTION)), torch.rand(2, 3, 4, 32, 32)
    with torch.no_grad():
        exact = model(pixels).pooled
        half = model.bfloat16()(pixels.bfloat16()).pooled
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.1)


def test_refusals():
    for wrong, match in (
        ({"heads": 5}, "5 heads"),
        ({"reader_heads": 5}, "5 heads"),
        ({"resolution": 30}, "do not divide 30"),
        ({"local": 3}, "local must be"),
        ({"read_layers": (2, 1)}, "rising order"),
        ({"read_layers": (3,)}, "0 to 2"),
        ({"read_layers": ()}, "read_layers"),
    ):
        with pytest.raises(ConfigError, match=match):
            dataclasses.replace(SCENE, **wrong)
    with pytest.raises(MediaError, match="NaN"):
        UniFormerV2(SCENE)(torch.full((1, 3, 1, 32, 32), torch.nan))
    with pytest.raises(ConfigError, match=r"no conv1\.weight"):
        UniFormerV2.from_official({"weight": torch.zeros(1)})
