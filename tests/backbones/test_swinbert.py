"""SwinBERT: what sees what, sizes, checkpoints, gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from smalti import registry
from smalti.backbones.swinbert import SwinBERT, SwinBERTConfig
from smalti.errors import ConfigError, MediaError
from smalti.nn.bert_encoder import BertConfig
from smalti.nn.video_swin import VideoSwinConfig
from smalti.tokens import Tokens

TINY = SwinBERTConfig(
    VideoSwinConfig(dim=8, depths=(2, 2), heads=(2, 4), window=(2, 3, 3), drop_path=0.0),
    BertConfig(vocabulary=200, dim=16, depth=2, heads=4, hidden=32, positions=12, dropout=0.0),
    features=10,
    masked_tokens=18,
)
SHAPE = (2, 3, 4, 24, 24)  # 2 · 3 · 3 tokens


def build(**changes: object) -> SwinBERT:
    model = SwinBERT(dataclasses.replace(TINY, **changes)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and name != "mask.weight":
            torch.nn.init.normal_(parameter, std=0.2)  # small weights would hide mistakes
    return model


def pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape or SHAPE)


@torch.no_grad()
def test_features_lie_on_the_grid() -> None:
    features = build()(pixels())
    assert features.tokens.shape == (2, 18, 16)
    assert features.grid == (2, 3, 3)
    assert [tuple(level.shape[1:]) for level in features.pyramid] == [(8, 2, 6, 6), (16, 2, 3, 3)]
    torch.testing.assert_close(features.pooled, features.tokens.mean(1))


@pytest.mark.parametrize("size", [(1, 8, 8), (5, 31, 17), (8, 40, 24)])
@torch.no_grad()
def test_without_a_mask_every_size_is_taken(size) -> None:
    features = build(masked_tokens=0)(pixels(1, 3, *size))
    assert features.grid == TINY.video.grid(*size)


@torch.no_grad()
def test_a_word_changes_no_earlier_word() -> None:
    model, video = build(), model_video()
    ids = torch.randint(1, 200, (2, 6))
    changed = ids.clone()
    changed[:, 3] = (ids[:, 3] + 1) % 200
    one, other = model.read(video, ids), model.read(video, changed)
    torch.testing.assert_close(one[:, :3], other[:, :3], atol=1e-6, rtol=0)
    assert (one[:, 3:] - other[:, 3:]).abs().amax((0, 2)).min() > 1e-4


def model_video() -> torch.Tensor:
    return torch.randn(SHAPE)


@torch.no_grad()
def test_video_does_not_see_words() -> None:
    model = build()
    tokens = model.watch(model_video())
    words = model.words(torch.randint(200, (2, 5)))
    whole = model.encoder(torch.cat([words, tokens], 1), model.attention_bias(18, 5))
    torch.testing.assert_close(whole[:, 5:], model.encoder(tokens, model.attention_bias(18)))


@torch.no_grad()
def test_words_see_the_whole_video() -> None:
    model = build()
    tokens, ids = model.watch(model_video()), torch.randint(200, (2, 3))
    for place in (0, 17):
        changed = tokens.clone()
        changed[:, place] += 1
        assert (model.tell(tokens, ids) - model.tell(changed, ids)).abs().amax((0, 2)).min() > 1e-5


@torch.no_grad()
def test_the_mask_goes_from_full_attention_to_none() -> None:
    model, full = build(), build(masked_tokens=0)
    full.load_state_dict({k: v for k, v in model.state_dict().items() if k != "mask.weight"})
    assert model.mask is not None
    video = pixels()
    torch.nn.init.constant_(model.mask.weight, 40.0)
    torch.testing.assert_close(model(video).tokens, full(video).tokens)
    torch.nn.init.constant_(model.mask.weight, -40.0)
    tokens = model.watch(model_video())
    changed = tokens.clone()
    changed[:, 4] += 1
    bias = model.attention_bias(18)
    differs = (model.encoder(tokens, bias) - model.encoder(changed, bias)).abs().amax((0, 2)) > 1e-6
    assert differs.nonzero().flatten().tolist() == [4]


@torch.no_grad()
def test_another_length_needs_another_mask() -> None:
    model = build()
    longer = pixels(1, 3, 8, 24, 24)
    with pytest.raises(ConfigError, match="mask_for"):
        model(longer)
    old = model.mask.weight
    model.mask_for(8, 24, 24)
    assert model(longer).tokens.shape[1] == 36
    assert model.config.masked_tokens == 36
    assert torch.equal(model.mask.weight[18:, 18:], old)
    with pytest.raises(ConfigError, match="no learned mask"):
        build(masked_tokens=0).mask_for(8, 24, 24)


def test_sources_that_mean_nothing_are_refused() -> None:
    model = build()
    with pytest.raises(ConfigError, match="pixels"):
        model(Tokens(values=torch.zeros(1, 2, 16)))
    with pytest.raises(MediaError):
        model(torch.full(SHAPE, torch.nan))
    with pytest.raises(ConfigError, match="13 words"):
        model.read(model_video(), torch.zeros(2, 13, dtype=torch.long))


@torch.no_grad()
def test_it_runs_in_bf16() -> None:
    model = build().to(torch.bfloat16)
    video = pixels().to(torch.bfloat16)
    assert model(video).tokens.dtype == torch.bfloat16
    assert model.read(video, torch.zeros(2, 3, dtype=torch.long)).isfinite().all()


def official_state(model: SwinBERT) -> dict[str, torch.Tensor]:
    """Names as in a `model.bin`, unused parts among them."""
    back = (
        ("masked_words.decoder.bias", "trans_encoder.cls.predictions.bias"),
        ("masked_words.decoder.", "trans_encoder.cls.predictions.decoder."),
        ("masked_words.norm.", "trans_encoder.cls.predictions.transform.LayerNorm."),
        ("masked_words.dense.", "trans_encoder.cls.predictions.transform.dense."),
        ("words.word.", "trans_encoder.bert.embeddings.word_embeddings."),
        ("words.position.", "trans_encoder.bert.embeddings.position_embeddings."),
        ("words.kind.", "trans_encoder.bert.embeddings.token_type_embeddings."),
        ("words.norm.", "trans_encoder.bert.embeddings.LayerNorm."),
        ("embed_features.", "trans_encoder.bert.img_embedding."),
        ("video.patch.", "swin.module.backbone.patch_embed.proj."),
        ("video.patch_norm.", "swin.module.backbone.patch_embed.norm."),
        ("video.stages.", "swin.module.backbone.layers."),
        ("video.norm.", "swin.module.backbone.norm."),
        (".merge.", ".downsample."),
        (".bias.table", ".relative_position_bias_table"),
        ("features.", "fc."),
    )
    state = {
        "trans_encoder.bert.pooler.dense.weight": torch.zeros(16, 16),
        "trans_encoder.cls_img_feat.bias": torch.zeros(2),
        "swin.module.backbone.layers.0.blocks.0.attn.relative_position_index": torch.zeros(18, 18),
    }
    block = (
        (".attn.proj.", ".attention.output.dense."),
        (".norm1.", ".attention.output.LayerNorm."),
        (".norm2.", ".output.LayerNorm."),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
    )
    for name, tensor in model.state_dict().items():
        if name == "mask.weight":
            state["learn_vid_att.weight"] = tensor.reshape(-1, 1)
        elif name.startswith("encoder."):
            name = "trans_encoder.bert." + name.replace("encoder.blocks.", "encoder.layer.")
            for ours, theirs in block:
                name = name.replace(ours, theirs)
            if ".attn.qkv." in name:
                for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    state[name.replace(".attn.qkv.", f".attention.self.{part}.")] = piece
            else:
                state[name] = tensor
        else:
            for ours, theirs in back:
                name = name.replace(ours, theirs)
            state[name] = tensor
    return state


@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"masked_tokens": 0}])
@torch.no_grad()
def test_official_names_load(changes) -> None:
    model = build(**changes)
    loaded = SwinBERT.from_official(official_state(model), heads=4, window=(2, 3, 3)).eval()
    expected = dataclasses.replace(model.config.video, drop_path=0.2)
    assert loaded.config == dataclasses.replace(
        model.config, video=expected, text=dataclasses.replace(model.config.text, dropout=0.1)
    )
    video, ids = model_video(), torch.randint(200, (2, 4))
    assert torch.equal(loaded.read(video, ids), model.read(video, ids))


def test_a_hard_mask_is_chosen_at_loading() -> None:
    loaded = SwinBERT.from_official(official_state(build()), heads=4, window=(2, 3, 3), hard=True)
    assert set(loaded.mask.entries().unique().tolist()) == {0.0, 1.0}


def test_foreign_checkpoints_are_refused() -> None:
    with pytest.raises(ConfigError, match="no checkpoint of SwinBERT"):
        SwinBERT.from_official({"weight": torch.zeros(2)})
    state = official_state(build())
    del state["fc.bias"]
    with pytest.raises(ConfigError, match=r"features\.bias"):
        SwinBERT.from_official(state, heads=4, window=(2, 3, 3))
    with pytest.raises(ConfigError, match="window"):
        SwinBERT.from_official(state, heads=4)


def test_everything_learned_gets_a_gradient() -> None:
    model = build()
    loss = model.read(model_video(), torch.randint(200, (2, 4))).square().mean() + model.mask.loss()
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_the_masks_of_presets_are_for_their_videos() -> None:
    presets = registry.card_of(SwinBERT).presets
    for preset, shape in {
        "base-32": (32, 224, 224),
        "base-64": (64, 224, 224),
        "large-384-32": (32, 384, 384),
    }.items():
        t, h, w = presets[preset].video.grid(*shape)
        assert t * h * w == presets[preset].masked_tokens
