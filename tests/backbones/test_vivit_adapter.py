"""SFA-ViViT: freezing is real, stage 2 starts where stage 1 ended, costs, any size, official names."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import smalti
from smalti.backbones.vivit_adapter import ViViTAdapter, ViViTAdapterConfig, resample_times
from smalti.backbones.vivit_adapter_official import inflate
from smalti.backbones.vivit_adapter_training import (
    action_scores,
    heads_loss,
    learning_rate,
    second_stage,
    step_cost,
    train_steps,
    views,
)
from smalti.errors import ConfigError, MediaError
from smalti.nn.flops import block_flops
from smalti.tokens import Tokens

TINY = ViViTAdapterConfig(24, 3, 3, 1, 3, 2.0, 8, 2, 32, 8, classes=(3, 4))


def build(**options) -> ViViTAdapter:
    torch.manual_seed(0)
    model = ViViTAdapter(dataclasses.replace(TINY, **options)).eval()
    for name, parameter in model.named_parameters():
        if not parameter.any() and not name.startswith("adapter"):
            torch.nn.init.normal_(parameter, std=0.2)  # what starts at zero would hide mistakes
    return model


def end_to_end(**options) -> ViViTAdapter:
    return build(adapter="none", frozen=False, **options)


def clip(frames=8, side=32, batch=2):
    return torch.rand(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(1))


def logits(model, pixels):
    with torch.no_grad():
        return torch.cat(model.classify(model(pixels)), 1)


def preset(name) -> ViViTAdapter:
    smalti.systems("backbones")
    with torch.device("meta"):
        return smalti.create("vivit-adapter", name, room="backbones")


def test_arithmetic_of_the_base():
    model, dim = preset("vivit-b-16x2-fe"), 768
    block = 12 * dim * dim + 13 * dim
    spatial = 2 * 256 * 3 * dim + dim + 198 * dim + 12 * block + 2 * dim
    temporal = 18 * dim + 4 * block + 2 * dim
    assert model.params() == spatial + temporal + 400 * (dim + 1)
    assert model.params() / 1e6 == pytest.approx(115.1, rel=0.02)
    flops = 16 * (12 * block_flops(197, dim) + 196 * 2 * 256 * 3 * dim) + 4 * block_flops(17, dim)
    assert model.flops((1, 3, 32, 224, 224)) == flops


def test_presets_of_stage_two_learn_little():
    model = preset("sfa-vivit-b-16x2-epic-kitchens")
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learn / 1e6 == pytest.approx(29.0, rel=0.02)
    assert [len(head.weight) for head in model.heads] == [97, 300]
    assert preset("sfa-vivit-b-16x2-128").temporal.positions.shape == (1, 65, 768)
    assert preset("vivit-l-16x2-fe").params() / 1e6 == pytest.approx(355, rel=0.02)


def test_freezing_is_real():
    model = build()
    before = {name: p.clone() for name, p in model.named_parameters()}
    batches = [(clip(), torch.tensor([[0, 1], [2, 3]]))] * 3
    train_steps(model, batches, rate=0.1)
    assert model.training
    assert not model.spatial.training
    for name, parameter in model.named_parameters():
        if name.startswith("spatial."):
            assert parameter.grad is None, name
            assert torch.equal(parameter, before[name]), name
        else:
            assert not torch.equal(parameter, before[name]), name


def test_end_to_end_teaches_all():
    model = end_to_end().train()
    heads_loss(model.classify(model(clip())), torch.tensor([[0, 1], [2, 3]])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_stage_two_starts_as_stage_one():
    first = end_to_end()
    second = second_stage(first, 8).eval()
    assert second.config.frozen
    assert second.adapter is not None
    assert torch.equal(logits(second, clip()), logits(first, clip()))
    longer = second_stage(first, 16).eval()
    assert longer.temporal.positions.shape == (1, 9, 24)
    torch.testing.assert_close(logits(longer, clip()), logits(first, clip()), atol=0.3, rtol=0.3)
    torch.testing.assert_close(longer.temporal.positions[:, :1], first.temporal.positions[:, :1])
    fresh = second_stage(first, 8, temporal="new").eval()
    assert torch.equal(fresh.spatial.tubelets.weight, first.spatial.tubelets.weight)
    assert not torch.equal(fresh.temporal.positions, first.temporal.positions)
    plain = second_stage(first, 8, adapter="mlp").eval()
    assert not torch.allclose(logits(plain, clip()), logits(first, clip()))


def test_a_step_of_stage_two_keeps_and_computes_less():
    first = end_to_end(depth=6, frames=32)
    pixels = clip(frames=32)
    whole, frozen = step_cost(first.train(), pixels), step_cost(second_stage(first, 32).train(), pixels)
    assert frozen.saved_bytes < 0.25 * whole.saved_bytes
    assert frozen.flops < 0.5 * whole.flops
    assert frozen.trainable < whole.trainable
    assert all(p.grad is None for p in first.parameters())
    longer = step_cost(second_stage(first, 64).train(), clip(frames=64))
    assert longer.saved_bytes < whole.saved_bytes


@torch.no_grad()
def test_space_comes_before_time():
    model, x = build(), clip()
    h = model.look(model.normalise(x))
    order = torch.tensor([2, 0, 3, 1])
    steps = x.unflatten(2, (4, 2))[:, :, order].flatten(2, 3)
    torch.testing.assert_close(model.look(model.normalise(steps)), h[:, order], atol=1e-5, rtol=1e-4)
    changed = x.clone()
    changed[:, :, 5] = 0
    differs = (model.look(model.normalise(changed)) - h).abs().amax((0, 2)) > 1e-4
    assert differs.tolist() == [False, False, True, False]
    assert not torch.allclose(logits(model, x), logits(model, steps), atol=1e-4)


@torch.no_grad()
def test_cached_tokens_stand_for_pixels():
    model = build()
    cached = model.cache(clip())
    assert cached.shape == (2, 4)
    assert torch.equal(model(cached).pooled, model(clip()).pooled)


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("shape", [(8, 32, 32), (1, 20, 9), (7, 40, 24), (12, 32, 32)])
def test_any_size_and_length(pooling, shape):
    features = build(pooling=pooling)(torch.rand(2, 3, *shape))
    steps = -(-shape[0] // 2)
    assert features.grid == (steps, 1, 1)
    assert features.tokens.shape == (2, steps + (pooling == "class"), 24)
    assert features.pooled.isfinite().all()


@torch.no_grad()
def test_a_picture_is_its_frame_repeated():
    picture = clip(frames=1)
    assert torch.equal(logits(build(), picture), logits(build(), picture.expand(-1, -1, 2, -1, -1)))


def test_times_between_times():
    table = torch.arange(4.0)[None, :, None]
    assert torch.equal(resample_times(table, 4), table)
    torch.testing.assert_close(
        resample_times(table, 8)[0, :, 0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    )


def test_bf16_is_near_float32():
    model = build()
    exact = logits(model, clip())
    half = logits(model.bfloat16(), clip().bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.15, rtol=0.15)


def scenic(model: ViViTAdapter) -> dict[str, torch.Tensor]:
    """The model's weights as a tree of scenic, names joined by slashes."""
    state = {
        "embedding/kernel": model.spatial.tubelets.weight.permute(2, 3, 4, 1, 0),
        "embedding/bias": model.spatial.tubelets.bias,
        "output_projection/kernel": model.heads[0].weight.mT,
        "output_projection/bias": model.heads[0].bias,
    }
    parts = {"SpatialTransformer": model.spatial.encoder, "TemporalTransformer": model.temporal}
    for name, encoder in parts.items():
        if encoder.class_token is not None:
            state[f"cls_{name}"] = encoder.class_token
        state[f"{name}/posembed_input/pos_embedding"] = encoder.positions
        state[f"{name}/encoder_norm/scale"], state[f"{name}/encoder_norm/bias"] = encoder.norm.parameters()
        for number, block in enumerate(encoder.blocks):
            at, attention = f"{name}/encoderblock_{number}", "MultiHeadDotProductAttention_0"
            for i, norm in enumerate((block.norm1, block.norm2)):
                state[f"{at}/LayerNorm_{i}/scale"], state[f"{at}/LayerNorm_{i}/bias"] = norm.parameters()
            for i, layer in enumerate((block.mlp.fc1, block.mlp.fc2)):
                state[f"{at}/MlpBlock_0/Dense_{i}/kernel"] = layer.weight.mT
                state[f"{at}/MlpBlock_0/Dense_{i}/bias"] = layer.bias
            dim, heads = encoder.positions.shape[-1], block.attn.heads
            for i, side in enumerate(("query", "key", "value")):
                part = slice(i * dim, (i + 1) * dim)
                weight = block.attn.qkv.weight[part].mT.reshape(dim, heads, -1)
                state[f"{at}/{attention}/{side}/kernel"] = weight
                state[f"{at}/{attention}/{side}/bias"] = block.attn.qkv.bias[part].reshape(heads, -1)
            out = block.attn.proj
            state[f"{at}/{attention}/out/kernel"] = out.weight.mT.reshape(heads, -1, dim)
            state[f"{at}/{attention}/out/bias"] = out.bias
    return {key: value.detach().clone() for key, value in state.items()}


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("join", ["/", "."])
def test_scenic_trees_load(pooling, join, tmp_path):
    model = end_to_end(classes=(3,), pooling=pooling)
    state = {key.replace("/", join): value for key, value in scenic(model).items()}
    torch.save(state, tmp_path / "vivit.pt")
    again = smalti.load_official("vivit-adapter", tmp_path / "vivit.pt", room="backbones")
    assert again.config == model.config
    assert torch.equal(logits(again, clip()), logits(model, clip()))
    longer = ViViTAdapter.from_official(state, frames=16, adapter="bottleneck", frozen=True).eval()
    assert longer.temporal.table.shape[1] == 8
    assert torch.equal(longer.spatial(clip()), model.spatial(clip()))


def test_a_picture_transformer_becomes_the_spatial_part():
    model = end_to_end(gelu="exact", tubelet=1, frames=4)
    encoder = model.spatial.encoder
    state = {
        "patch_embed.proj.weight": model.spatial.tubelets.weight[:, :, 0],
        "patch_embed.proj.bias": model.spatial.tubelets.bias,
        "cls_token": encoder.class_token,
        "pos_embed": encoder.positions,
        "head.weight": torch.zeros(9, 24),
    }
    state |= {f"blocks.{name}": tensor for name, tensor in encoder.blocks.state_dict().items()}
    state |= {f"norm.{name}": tensor for name, tensor in encoder.norm.state_dict().items()}
    video = ViViTAdapter.from_official(state, heads=3, temporal_heads=3, tubelet=3, frames=6).eval()
    x = clip(frames=6)
    with torch.no_grad():
        torch.testing.assert_close(video.look(x), model.look(x[:, :, 1::3]), atol=1e-5, rtol=1e-4)


def test_inflation():
    kernel = torch.randn(4, 3, 2, 2)
    still = torch.rand(1, 3, 1, 2, 2).expand(-1, -1, 4, -1, -1)
    wanted = torch.nn.functional.conv2d(still[:, :, 0], kernel)
    for how in ("central", "average"):
        given = torch.nn.functional.conv3d(still, inflate(kernel, 4, how))
        torch.testing.assert_close(given[:, :, 0], wanted)
    assert int(inflate(kernel, 4).any(0).any(0).flatten(1).any(1).sum()) == 1
    with pytest.raises(ConfigError, match="central or average"):
        inflate(kernel, 4, "first")


def test_refusals():
    with pytest.raises(ConfigError, match="patches of 2 × 8 × 8"):
        dataclasses.replace(TINY, frames=7)
    with pytest.raises(ConfigError, match="do not divide"):
        dataclasses.replace(TINY, heads=5)
    with pytest.raises(ConfigError, match="24 channels"):
        build()(Tokens(values=torch.zeros(1, 4, 23)))
    with pytest.raises(MediaError, match="NaN"):
        build()(torch.full((1, 3, 2, 8, 8), torch.nan))
    with pytest.raises(ConfigError, match=r"patch_embed\.proj\.weight"):
        ViViTAdapter.from_official({"weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match=r"embedding\.kernel"):
        ViViTAdapter.from_official({"SpatialTransformer/x": torch.zeros(1)})
    with pytest.raises(ConfigError, match="no view"):
        views(clip(), 9, 32)


# --- training


def test_losses_and_actions_of_two_heads():
    parts = (torch.zeros(2, 3), torch.zeros(2, 4))
    loss = heads_loss(parts, torch.tensor([[0, 1], [2, 3]]))
    assert float(loss) == pytest.approx(torch.tensor(12.0).log().item())
    scores = action_scores((torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])))
    assert scores.shape == (1, 2, 3)
    assert scores.flatten().argmax() == 1
    assert float(scores.sum()) == pytest.approx(1.0)


def test_the_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 10, 0.5) for step in (0, 5, 10, 55, 100, 120)]
    assert rates == pytest.approx([0, 0.25, 0.5, 0.25, 0, 0], abs=1e-9)


def test_views_cover_the_video():
    video = torch.rand(1, 3, 20, 32, 50)
    given = views(video, 8, 32)
    assert len(given) == 12
    assert torch.equal(given[0], video[:, :, :8, :, :32])
    assert torch.equal(given[4], video[:, :, 4:12, :, 9:41])
    assert torch.equal(given[-1], video[:, :, 12:, :, 18:])
    assert torch.equal(views(video.mT, 8, 32, 1, 3)[2], video.mT[:, :, 6:14, 18:])


def test_stage_two_learns():
    torch.manual_seed(0)
    model = second_stage(end_to_end(classes=(2,)), 8)
    still = torch.rand(8, 3, 8, 32, 32, generator=torch.Generator().manual_seed(4))
    labels = torch.arange(8)[:, None] % 2
    pixels = still * (0.4 + 0.6 * labels[:, :, None, None, None])
    losses = []
    train_steps(model, [(pixels, labels)] * 30, rate=0.05, log=lambda step, loss: losses.append(loss))
    assert losses[-1] < 0.5 * losses[0]
