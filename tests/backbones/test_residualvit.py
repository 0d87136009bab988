"""ResidualViT: what leans on what, what it costs, streams, CLIP's weights, what alone learns."""

import dataclasses

import pytest
import torch

from smalti.backbones.centerclip import CenterCLIP
from smalti.backbones.centerclip_tower import CenterCLIPConfig
from smalti.backbones.residualvit import ResidualViT, merged
from smalti.backbones.residualvit_config import STRATEGIES, ResidualViTConfig
from smalti.backbones.residualvit_training import (
    agreement,
    feature_distillation,
    features_to_match,
    language_distillation,
)
from smalti.errors import ConfigError, MediaError
from smalti.registry import card_of

TINY = ResidualViTConfig(24, 2, 3, 8, 32, 16, interval=2, drop=0.5, strategy="uniform")


def build(**changes) -> ResidualViT:
    torch.manual_seed(0)
    return ResidualViT(dataclasses.replace(TINY, **changes)).eval()


def features(model, clip, **options):
    with torch.no_grad():
        return model.encode(clip, **options)[0]


def preset(name: str, **changes) -> ResidualViT:
    config = dataclasses.replace(card_of(ResidualViT).presets[name], **changes)
    with torch.device("meta"):
        return ResidualViT(config)


def products_of_attention(tokens: int, config: ResidualViTConfig) -> int:
    return 2 * tokens**2 * config.width * config.depth


@pytest.mark.parametrize(
    ("interval", "drop", "residual", "giga"),
    [(0, 0.0, False, 233.4), (2, 0.85, False, 102.0), (2, 0.85, True, 102.6)],
)
def test_multiply_adds_of_three_frames_are_the_papers(interval, drop, residual, giga):
    """The paper counts no products of attention."""
    model = preset("vit-l-14", interval=interval, drop=drop, residual=residual)
    few = 1 + residual + round(256 * (1 - drop))
    attention = products_of_attention(257, model.config)
    attention += 2 * products_of_attention(few if interval else 257, model.config)
    assert (model.flops((1, 3, 3, 224, 224)) - attention) / 1e9 == pytest.approx(giga, rel=0.006)


@pytest.mark.parametrize("interval", [1, 2, 5])
@pytest.mark.parametrize("drop", [0.5, 0.85])
def test_cost_falls_as_the_formula_says(interval, drop):
    model, frame = preset("vit-l-14", interval=interval, drop=drop), preset("vit-l-14", interval=0)
    frames = 1 + interval
    share = model.flops((1, 3, frames, 224, 224)) / frames / frame.flops((1, 3, 1, 224, 224))
    assert share == pytest.approx(model.config.cost(), rel=0.04)
    if (interval, drop) == (2, 0.85):
        assert model.config.cost() == pytest.approx(0.433, abs=1e-3)


@pytest.mark.parametrize(("name", "millions"), [("vit-l-14", 304.0), ("vit-b-16", 86.2), ("vit-b-32", 87.8)])
def test_parameters_of_the_presets(name, millions):
    model = preset(name)
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learned == model.config.width * (model.config.embedding + 1)
    assert (model.params() - learned) / 1e6 == pytest.approx(millions, rel=0.005)


def test_with_all_patches_and_no_residual_token_it_is_clip_frame_by_frame():
    clip = torch.randn(2, 3, 7, 32, 32)
    plain = build(interval=0)
    every = features(plain, clip)
    for strategy in STRATEGIES:
        torch.testing.assert_close(features(build(drop=0.0, residual=False, strategy=strategy), clip), every)
    with torch.no_grad():
        torch.testing.assert_close(plain.tower(clip[:, :, 3:4])[:, 0], every[:, 3])


def test_whole_frames_are_clips():
    clip = torch.randn(2, 3, 7, 32, 32)
    ours, clips = features(build(), clip), features(build(interval=0), clip)
    torch.testing.assert_close(ours[:, ::3], clips[:, ::3])
    assert (ours[:, 1::3] - clips[:, 1::3]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_frame_depends_on_itself_and_its_whole_frame_alone(strategy):
    model, clip = build(strategy=strategy), torch.randn(1, 3, 7, 32, 32)
    before = features(model, clip)
    for frame in range(7):
        other = clip.clone()
        other[:, :, frame] += torch.randn(3, 32, 32)
        moved = (features(model, other) != before).any(-1)[0].nonzero()[:, 0].tolist()
        assert moved == (list(range(frame, min(frame + 3, 7))) if frame % 3 == 0 else [frame])


def test_the_whole_frame_counts_through_the_residual_token_alone():
    clip, other = torch.randn(1, 3, 3, 32, 32), torch.randn(1, 3, 3, 32, 32)
    other[:, :, 1:] = clip[:, :, 1:]
    without = build(residual=False)
    assert torch.equal(features(without, clip)[:, 1:], features(without, other)[:, 1:])
    model = build()
    with torch.no_grad():
        model.residual_tokenizer.weight.zero_()
    assert torch.equal(features(model, clip)[:, 1:], features(model, other)[:, 1:])


def test_a_leaning_frame_by_hand():
    model, frame = build(), torch.randn(1, 3, 32, 32)
    memory, tower, kept = torch.randn(1, 16), model.tower, [1, 3, 5, 7, 9, 11, 13, 15]
    with torch.no_grad():
        x = tower.patches(frame[:, :, None]).flatten(2).mT + tower.position[1:]
        residual = memory @ model.residual_tokenizer.weight.T + model.residual_tokenizer.bias
        parts = [(tower.class_token + tower.position[0])[None, None], residual[:, None], x[:, kept]]
        x = tower.norm_before(torch.cat(parts, 1))
        for block in tower.blocks:
            x = block(x)
        expected = tower.norm_after(x[:, 0]) @ tower.projection
        torch.testing.assert_close(model.lean(frame, memory, frame), expected)


def test_motion_keeps_what_moved():
    model = build(strategy="motion", drop=1 - 1 / 16)
    still = torch.randn(1, 3, 32, 32)
    moved = still.clone()
    moved[..., 8:16, 24:32] += 1
    with torch.no_grad():
        found = model.lean(moved, torch.zeros(1, 16), still)
        tokens, _ = model.embed(moved)
        empty = model.residual_tokenizer.bias.expand(1, 1, -1)
        torch.testing.assert_close(found, model.run(torch.cat([empty, tokens[:, 7:8]], 1)))


def test_streams_give_what_the_whole_gives():
    for strategy in ("uniform", "motion", "random"):
        model, pixels = build(strategy=strategy, interval=3), torch.rand(2, 3, 11, 32, 32)
        whole = model(pixels).tokens
        stream = model.stream()
        parts = [stream.push(part) for part in pixels.split([1, 4, 2, 3, 1], 2)]
        torch.testing.assert_close(torch.cat(parts, 1), whole)
    with pytest.raises(ConfigError, match="one size"):
        stream.push(torch.rand(2, 3, 1, 40, 32))


def test_forced_frames_are_whole():
    model, clip = build(), torch.randn(2, 3, 6, 32, 32)
    forced = torch.zeros(2, 6, dtype=torch.bool)
    forced[1, 2] = True
    ours, clips = features(model, clip, forced=forced), features(build(interval=0), clip)
    same = (ours - clips).abs().amax(-1) < 1e-5
    assert same.tolist() == [
        [True, False, False, True, False, False],
        [True, False, True, False, False, True],
    ]
    torch.testing.assert_close(ours[1:, 2:5], features(model, clip[1:, :, 2:5]))


def test_memory_is_bounded_without_changing_anything():
    clip = torch.randn(2, 3, 7, 32, 32)
    torch.testing.assert_close(features(build(together=2), clip), features(build(), clip))


@pytest.mark.parametrize("shape", [(1, 32, 32), (4, 40, 20), (5, 9, 33)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_size_and_length(strategy, shape):
    found = build(strategy=strategy)(torch.rand(2, 3, *shape))
    assert found.tokens.shape == (2, shape[0], 16)
    assert found.grid == (shape[0], 1, 1)
    torch.testing.assert_close(found.pooled, found.tokens.mean(1))
    assert found.tokens.isfinite().all()


def test_merged_patches_are_means_of_all():
    tokens = torch.randn(3, 16, 8)
    few = merged(tokens, 3)
    assert few.shape == (3, 3, 8)
    torch.testing.assert_close(merged(tokens, 1)[:, 0], tokens.mean(1))
    twins = torch.randn(1, 3, 8).repeat_interleave(2, 1)
    torch.testing.assert_close(merged(twins, 3), twins[:, ::2])


def test_smaller_frames_are_as_cheap_as_fewer_patches():
    few, small = (preset("vit-b-16", strategy=s, drop=0.75) for s in ("uniform", "resolution"))
    shape = (1, 3, 3, 224, 224)
    assert small.flops(shape) == pytest.approx(few.flops(shape), rel=0.01)


def official_clip(heads: int = 3) -> tuple[CenterCLIP, dict[str, torch.Tensor]]:
    """A CLIP and its weights under official names."""
    config = CenterCLIPConfig(1, 32, 8, False, 24, heads, 2, 16, 5, 11, 8, 2, 1, (1, 1), (16, 16))
    model = CenterCLIP(config).eval()
    names = {
        "patches.": "conv1.",
        "class_token": "class_embedding",
        "position": "positional_embedding",
        "norm_before.": "ln_pre.",
        "norm_after.": "ln_post.",
        "projection": "proj",
        "blocks.": "transformer.resblocks.",
        ".attn.qkv.": ".attn.in_proj_",
        ".attn.proj.": ".attn.out_proj.",
        ".norm1.": ".ln_1.",
        ".norm2.": ".ln_2.",
        ".mlp.fc1.": ".mlp.c_fc.",
        ".mlp.fc2.": ".mlp.c_proj.",
    }
    state = {"logit_scale": torch.tensor(4.0), "token_embedding.weight": torch.randn(11, 8)}
    for name, tensor in model.visual.state_dict().items():
        for ours, official in names.items():
            if ours.startswith("."):
                name = name.replace(ours, official)
            elif name.startswith(ours):
                name = official + name.removeprefix(ours)
        state[f"visual.{name}"] = tensor[:, :, 0] if name == "conv1.weight" else tensor
    return model, state


def test_clips_weights_give_clips_features():
    clip, state = official_clip()
    model = ResidualViT.from_clip(state, heads=3, interval=0).eval()
    assert (model.config.depth, model.config.patch, model.config.resolution) == (2, 8, 32)
    pixels = torch.rand(2, 3, 2, 32, 32)
    with torch.no_grad():
        expected = clip.visual((pixels - clip.mean) / clip.std)
        torch.testing.assert_close(model(pixels).tokens[:, 0], expected[:, 0])
    residual = {
        "residual_tokenizer.weight": torch.randn(24, 16),
        "residual_tokenizer.bias": torch.randn(24),
    }
    model = ResidualViT.from_clip(state | residual, heads=3)
    assert torch.equal(model.residual_tokenizer.weight, residual["residual_tokenizer.weight"])
    for broken in ({"x": torch.zeros(1)}, {n: t for n, t in state.items() if "ln_post" not in n}):
        with pytest.raises(ConfigError):
            ResidualViT.from_clip(broken, heads=3)


def test_the_residual_tokenizer_alone_learns():
    model = build().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    found = features_to_match(model, torch.rand(2, 3, 4, 32, 32))
    language_distillation(found.student, found.teacher, torch.randn(2, 16)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()] == [
        "residual_tokenizer.weight",
        "residual_tokenizer.bias",
    ]
    optimiser.step()
    moved = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved == ["residual_tokenizer.weight", "residual_tokenizer.bias"]


def test_the_teacher_sees_the_same_frames_whole():
    model, pixels = build(), torch.rand(2, 3, 7, 30, 32)
    found = features_to_match(model, pixels)
    clips, ours = build(interval=0)(pixels).tokens, model(pixels).tokens
    torch.testing.assert_close(found.teacher, clips[:, [1, 2, 4, 5]])
    torch.testing.assert_close(found.student, ours[:, [1, 2, 4, 5]])
    assert not found.teacher.requires_grad
    torch.testing.assert_close(agreement(build(drop=0.0, residual=False), pixels), torch.ones(4))
    with pytest.raises(ConfigError, match="no leaning frame"):
        features_to_match(model, pixels[:, :, :1])


def test_language_distillation_by_hand():
    student, teacher, captions = torch.randn(3, 2, 5), torch.randn(3, 2, 5), torch.randn(3, 5)
    total = torch.zeros(())
    for k in range(2):
        ours, theirs = (
            7 * torch.stack([torch.cosine_similarity(x[i, k][None], captions) for i in range(3)])
            for x in (student, teacher)
        )
        for direction in (0, 1):
            total -= (theirs.softmax(direction) * ours.softmax(direction).log()).sum() / 6
    torch.testing.assert_close(language_distillation(student, teacher, captions, 7.0), total)


def test_distillations_are_least_where_student_and_teacher_agree():
    teacher, captions = torch.randn(3, 2, 5), torch.randn(3, 5)
    for loss in (
        lambda s: language_distillation(s, teacher, captions, 5.0),
        lambda s: feature_distillation(s, teacher),
        lambda s: feature_distillation(s, teacher, "mse"),
    ):
        best = teacher.clone().requires_grad_()
        loss(best).backward()
        assert best.grad.abs().max() < 1e-5
        assert loss(teacher + 0.3 * torch.randn(3, 2, 5)) > loss(teacher)
    with pytest.raises(ConfigError, match="cosine or mse"):
        feature_distillation(teacher, teacher, "l1")


def test_learning_brings_students_nearer_to_their_teacher():
    model = build(drop=0.9, strategy="motion")
    pixels = torch.rand(8, 3, 1, 32, 32).expand(-1, -1, 3, -1, -1).contiguous()
    with torch.no_grad():
        model.residual_tokenizer.weight.zero_()
    before = agreement(model, pixels).mean()
    optimiser = torch.optim.Adam(model.residual_tokenizer.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        found = features_to_match(model, pixels)
        feature_distillation(found.student, found.teacher).backward()
        optimiser.step()
    assert 1 - agreement(model, pixels).mean() < 0.7 * (1 - before)


def test_random_patches_are_drawn_anew_in_training_alone():
    model, pixels = build(strategy="random"), torch.rand(1, 3, 3, 32, 32)
    assert torch.equal(model(pixels).tokens, model(pixels).tokens)
    model.train()
    assert not torch.equal(model(pixels).tokens[:, 1:], model(pixels).tokens[:, 1:])


def test_bf16_is_near_float32():
    model, pixels = build(strategy="motion"), torch.rand(2, 3, 4, 32, 32)
    with torch.no_grad():
        exact = model(pixels).pooled
        half = model.bfloat16()(pixels.bfloat16()).pooled
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.1)


def test_refusals():
    for wrong, match in (
        ({"heads": 5}, "5 heads"),
        ({"resolution": 30}, "do not divide 30"),
        ({"interval": -1}, "interval"),
        ({"drop": 1.2}, "drop"),
        ({"together": 0}, "together"),
        ({"strategy": "motoin"}, "did you mean 'motion'"),
    ):
        with pytest.raises(ConfigError, match=match):
            dataclasses.replace(TINY, **wrong)
    with pytest.raises(MediaError, match="NaN"):
        build()(torch.full((1, 3, 1, 32, 32), torch.nan))
