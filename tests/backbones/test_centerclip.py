"""CenterCLIP's towers: shapes, what clustering changes, official names, loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from smalti.backbones.centerclip import (
    MEAN,
    STD,
    CenterCLIP,
    CenterCLIPConfig,
    blockwise,
    retrieval_loss,
    similarity,
)
from smalti.errors import ConfigError
from smalti.reducers.centerclip import CenterCLIPConfig as Clustering

TINY = CenterCLIPConfig(
    frames=6,
    resolution=12,
    patch=4,
    width=64,
    heads=1,
    depth=4,
    embedding=16,
    words=10,
    vocabulary=30,
    text_width=64,
    text_heads=1,
    text_depth=2,
    target_frames=blockwise(4, 2, 6, 2),
    cluster_tokens=blockwise(4, 2, 9, 7),
)


def build(**options) -> CenterCLIP:
    torch.manual_seed(0)
    return CenterCLIP(replace(TINY, **options)).eval()


def clips(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 6, 12, 12, generator=torch.Generator().manual_seed(1))


def captions(count: int = 3) -> torch.Tensor:
    words = torch.randint(1, 28, (count, 10), generator=torch.Generator().manual_seed(2))
    words[:, 7] = 29
    words[:, 8:] = 0
    return words


def lengths_inside(model: CenterCLIP) -> list[tuple[int, int]]:
    seen = []
    for block in model.visual.blocks:
        block.norm2.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape[:2])))
    model.encode_video(clips())
    return seen


@pytest.mark.parametrize("algorithm", ["kmedoids", "spectral", "sparse", "pooling"])
@torch.no_grad()
def test_upper_blocks_see_segments(algorithm) -> None:
    kept = 9 if algorithm == "pooling" else 7
    seen = lengths_inside(build(clustering=Clustering(algorithm=algorithm)))
    assert seen == [(12, 10), (12, 10), (4, kept + 1), (4, kept + 1)]


@torch.no_grad()
def test_clustering_may_come_in_several_blocks() -> None:
    seen = lengths_inside(build(target_frames=(6, 3, 3, 1), cluster_tokens=(9, 8, 8, 5)))
    assert seen == [(12, 10), (6, 9), (6, 9), (2, 6)]


@torch.no_grad()
def test_captions_meet_clips() -> None:
    model = build()
    scores = model(captions(), clips())
    assert scores.shape == (3, 2)
    assert scores.abs().max() <= model.logit_scale.exp() + 1e-4
    by_hand = similarity(
        model.encode_text(captions()), model.encode_video(clips()), torch.tensor(math.log(1 / 0.07))
    )
    torch.testing.assert_close(scores, by_hand)


@torch.no_grad()
def test_words_behind_the_end_do_not_matter() -> None:
    model, words = build(), captions()
    changed = words.clone()
    changed[:, 8:] = 5
    torch.testing.assert_close(model.encode_text(words), model.encode_text(changed))
    changed[:, 3] = 11
    assert not torch.allclose(model.encode_text(words), model.encode_text(changed))


@torch.no_grad()
def test_segments_without_a_real_last_frame_do_not_count() -> None:
    model = build()
    video = clips(1)
    other = video.clone()
    other[:, :, 3:] = torch.rand(1, 3, 3, 12, 12)
    mask = torch.tensor([[True] * 5 + [False]])
    torch.testing.assert_close(model.encode_video(video, mask), model.encode_video(other, mask))
    assert not torch.allclose(model.encode_video(video), model.encode_video(other))


@torch.no_grad()
def test_frames_do_not_meet_before_clustering() -> None:
    model = build(target_frames=(6,) * 4, cluster_tokens=(9,) * 4)
    assert not model.visual.clusterings
    video = clips(1)
    alone = model.visual(video)
    changed = video.clone()
    changed[:, :, 0] = 0
    moved = (model.visual(changed) - alone).abs().amax((0, 2))
    assert moved[0] > 1e-3
    assert moved[1:].max() < 1e-5


@pytest.mark.parametrize("shift", ["token_shift", "temporal_shift"])
@torch.no_grad()
def test_shifts_let_neighbouring_frames_meet(shift) -> None:
    model = build(shift=shift)
    video = clips(1)
    changed = video.clone()
    changed[:, :, 0] = 0
    moved = (model.visual(changed) - model.visual(video)).abs().amax((0, 2))
    assert moved.shape == (6,)
    assert moved[1] > 1e-4
    assert moved[5] < 1e-5


def test_learned_embeddings_are_added() -> None:
    model = build(cluster_embedding=True, frame_embedding=True)
    clustering = model.visual.clusterings["2"]
    assert clustering.cluster_embedding.shape == (7, 64)
    assert clustering.frame_embedding.shape == (3, 1, 64)
    model(captions(2), clips()).sum().backward()
    assert clustering.cluster_embedding.grad.abs().sum() > 0
    assert clustering.frame_embedding.grad.abs().sum() > 0


def official_state(model: CenterCLIP, prefix: str = "clip.") -> dict[str, torch.Tensor]:
    """The model's tensors under the official names."""
    names = {
        "visual.patches.weight": "visual.conv1.weight",
        "visual.class_token": "visual.class_embedding",
        "visual.position": "visual.positional_embedding",
        "visual.projection": "visual.proj",
        "word_position": "positional_embedding",
    }
    parts = {
        "visual.blocks.": "visual.transformer.resblocks.",
        "text_blocks.": "transformer.resblocks.",
        "visual.norm_before": "visual.ln_pre",
        "visual.norm_after": "visual.ln_post",
        "text_norm": "ln_final",
        "words.": "token_embedding.",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj.": "attn.out_proj.",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    state = {"visual.position_ids": torch.arange(10)[None], "context_length": torch.tensor(10)}
    for name, tensor in model.state_dict().items():
        if ".clusterings." in name:
            block, kind = name.split(".")[2:]
            kind = {"cluster_embedding": "cluster_embed", "frame_embedding": "cluster_frame_embed"}[kind]
            state[f"visual.transformer.resblocks.{block}.tokencluster_inter.{kind}"] = tensor
            continue
        for ours, official in parts.items():
            name = name.replace(ours, official)
        state[names.get(name, name)] = tensor[:, :, 0] if name == "visual.patches.weight" else tensor
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["", "clip.", "module.clip."])
@pytest.mark.parametrize("frame_embedding", [False, True])
@torch.no_grad()
def test_official_names_load(prefix, frame_embedding) -> None:
    model = build(cluster_embedding=True, frame_embedding=frame_embedding)
    state = official_state(model, prefix)
    assert f"{prefix}visual.transformer.resblocks.0.attn.in_proj_weight" in state
    assert f"{prefix}transformer.resblocks.1.mlp.c_proj.bias" in state
    assert f"{prefix}ln_final.weight" in state
    loaded = CenterCLIP.from_official(
        state,
        frames=6,
        target_frames=TINY.target_frames,
        cluster_tokens=TINY.cluster_tokens,
        frame_embedding=frame_embedding,
    ).eval()
    torch.testing.assert_close(loaded(captions(), clips()), model(captions(), clips()))


@torch.no_grad()
def test_the_block_is_clips_own() -> None:
    """Multi-head attention and quick GELU as torch has them, on the official tensors."""
    model = build()
    state = official_state(model, "")
    attention = torch.nn.MultiheadAttention(64, 1, batch_first=True).eval()
    root = "transformer.resblocks.0."
    attention.load_state_dict({name: state[f"{root}attn.{name}"] for name in attention.state_dict()})
    x = torch.randn(2, 5, 64)
    normal = torch.nn.functional.layer_norm(x, (64,), state[root + "ln_1.weight"], state[root + "ln_1.bias"])
    mask = torch.full((5, 5), -torch.inf).triu(1)
    x1 = x + attention(normal, normal, normal, attn_mask=mask, need_weights=False)[0]
    normal = torch.nn.functional.layer_norm(x1, (64,), state[root + "ln_2.weight"], state[root + "ln_2.bias"])
    hidden = normal @ state[root + "mlp.c_fc.weight"].T + state[root + "mlp.c_fc.bias"]
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    expected = x1 + hidden @ state[root + "mlp.c_proj.weight"].T + state[root + "mlp.c_proj.bias"]
    seen = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    torch.testing.assert_close(model.text_blocks[0](x, seen), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_patches_over_time_start_as_those_of_pictures() -> None:
    flat = build(target_frames=(6,) * 4, cluster_tokens=(9,) * 4)
    state = official_state(flat)
    lists = {"frames": 6, "target_frames": (6,) * 4, "cluster_tokens": (9,) * 4}
    deep = CenterCLIP.from_official(state, spacetime_patch=True, **lists).eval()
    assert deep.visual.patches.weight.shape == (64, 3, 3, 4, 4)
    torch.testing.assert_close(deep.encode_video(clips()), flat.encode_video(clips()))
    assert not CenterCLIP.from_official(state, frames=6).visual.clusterings


def test_foreign_checkpoints_and_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="layout"):
        CenterCLIP.from_official({"weight": torch.zeros(1)})
    state = official_state(build())
    del state["clip.visual.proj"]
    with pytest.raises(ConfigError, match="projection"):
        CenterCLIP.from_official(state, frames=6)
    with pytest.raises(ConfigError, match="clips"):
        build().encode_video(clips()[:, :, :5])
    with pytest.raises(ConfigError, match="captions"):
        build().encode_text(torch.zeros(1, 11, dtype=torch.int64))


def test_lists_that_do_not_fit_are_refused() -> None:
    for options in (
        {"target_frames": (6, 6)},
        {"target_frames": (6, 6, 4, 4)},
        {"cluster_tokens": (9, 9, 28, 28)},
        {"patch": 5},
        {"shift": "sideways"},
    ):
        with pytest.raises(ConfigError):
            build(**options)


def test_the_loss_by_hand_and_learning_from_it() -> None:
    scores = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    torch.testing.assert_close(retrieval_loss(scores), torch.tensor(math.log(1 + math.exp(-2))))
    model = build()
    retrieval_loss(model(captions(2), clips())).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_pixels_are_scaled_as_clip_does() -> None:
    assert len(MEAN) == len(STD) == 3
    model = build()
    grey = torch.tensor(MEAN).view(1, 3, 1, 1, 1).expand(1, 3, 6, 12, 12)
    seen = []
    model.visual.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.encode_video(grey)
    assert seen[0].abs().max() < 1e-6
