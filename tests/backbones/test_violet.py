"""VIOLET: order of tokens, tables, masks of text, heads, checkpoints, gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from smalti.backbones.violet import VIOLET, VIOLETConfig
from smalti.errors import ConfigError, MediaError
from smalti.nn.bert_encoder import BertConfig
from smalti.nn.video_swin import VideoSwinConfig
from smalti.tokens import Tokens

TINY = VIOLETConfig(
    VideoSwinConfig(dim=8, depths=(2, 2), heads=(2, 4), window=(2, 3, 3), time_stride=1, drop_path=0.0),
    BertConfig(vocabulary=200, dim=16, depth=2, heads=4, hidden=32, positions=12, dropout=0.0),
    places=4,
    frames=3,
    codes=30,
    dropout=0.0,
)
CELL = 8


def build(**changes: object) -> VIOLET:
    model = VIOLET(dataclasses.replace(TINY, **changes)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)  # small weights would hide mistakes
    return model


def pixels(batch: int = 2, frames: int = 3, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.rand(batch, 3, frames, height, width)


def texts(batch: int = 2, words: int = 6, real: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(104, 200, (batch, words))
    ids[:, 0], ids[:, real - 1], ids[:, real:] = 101, 102, 0
    return ids, ids != 0


@torch.no_grad()
def test_features_have_class_tokens_of_frames_in_front() -> None:
    model, video = build(), pixels()
    features = model(video)
    assert features.tokens.shape == (2, 3 + 3 * 3 * 4, 16)
    assert (features.prefix, features.grid) == (3, (3, 3, 4))
    out = model.encoder(model.watch(model.normalise(video)).tokens)
    torch.testing.assert_close(features.tokens[:, 1], out[:, 13])
    torch.testing.assert_close(features.tokens[:, 3 + 12], out[:, 14])
    torch.testing.assert_close(features.pooled, out[:, ::13].mean(1))
    assert [tuple(level.shape[1:]) for level in features.pyramid] == [(8, 3, 6, 8), (16, 3, 3, 4)]


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 17, 30), (5, 48, 40)])
@torch.no_grad()
def test_every_size_is_taken_and_frames_stay(size) -> None:
    features = build()(pixels(1, *size))
    assert features.grid == (size[0], -(-size[1] // CELL), -(-size[2] // CELL))
    assert features.tokens.shape[1] == size[0] + torch.tensor(features.grid).prod()


@torch.no_grad()
def test_a_small_grid_takes_the_first_rows_of_the_tables() -> None:
    model, maps = build(), torch.randn(1, 2, 2, 3, 16)
    tokens = model.place(maps).tokens.view(2, 7, 16)
    for frame in range(2):
        for place in range(7):
            own = model.first[0, 0, 0] if place == 0 else maps[0, frame].flatten(0, 1)[place - 1]
            expected = model.norm(own + model.places[0, place] + model.times[0, frame])
            torch.testing.assert_close(tokens[frame, place], expected)


@torch.no_grad()
def test_larger_tables_keep_their_ends_and_their_level() -> None:
    model = build()
    torch.nn.init.constant_(model.places[:, 1:], 0.3)
    torch.testing.assert_close(model._places(6, 5)[:, 1:], torch.full((1, 30, 16), 0.3))
    assert torch.equal(model._places(6, 5)[:, 0], model.places[:, 0])
    times = model._times(7)
    torch.testing.assert_close(times[:, [0, 3, 6]], model.times)


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    model, video = build(), pixels()
    ids, mask = texts()
    other = ids.clone()
    other[:, 4:] = 150
    torch.testing.assert_close(model.answer(video, ids, mask), model.answer(video, other, mask))
    torch.testing.assert_close(
        model.answer(video, ids, mask), model.answer(video, ids[:, :4], mask[:, :4]), atol=1e-5, rtol=1e-5
    )
    assert not torch.allclose(model.answer(video, ids, mask), model.answer(video, other, other > 0))


@torch.no_grad()
def test_the_head_reads_the_first_word() -> None:
    model, video = build(outputs=5), pixels()
    ids, mask = texts()
    tokens = model.watch(model.normalise(video)).tokens
    whole = model.combine(tokens, model.words(ids), mask)
    assert tokens.shape[1] == 3 * 13
    torch.testing.assert_close(model.answer(video, ids, mask), model.head(whole[:, 39]))


@torch.no_grad()
def test_attention_received_covers_video_and_text() -> None:
    model, video = build(), pixels()
    ids, mask = texts()
    mass = model.attention_received(video, ids, mask)
    assert mass.shape == (2, 39 + 6)
    torch.testing.assert_close(mass.sum(1), torch.full((2,), 2.0 * 45))
    assert not mass[:, 43:].any()


def test_sources_that_mean_nothing_are_refused() -> None:
    model = build()
    with pytest.raises(ConfigError, match="pixels"):
        model(Tokens(values=torch.zeros(1, 2, 16)))
    with pytest.raises(MediaError):
        model(pixels() * torch.nan)
    with pytest.raises(ConfigError, match="cannot meet"):
        dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, dim=32))


@torch.no_grad()
def test_it_runs_in_bf16() -> None:
    model = build().to(torch.bfloat16)
    video = pixels().to(torch.bfloat16)
    assert model(video).tokens.dtype == torch.bfloat16
    assert model.answer(video, *texts()).isfinite().all()


def official_state(model: VIOLET) -> dict[str, torch.Tensor]:
    """Names as in an official checkpoint."""
    back = (
        ("masked_words.decoder.bias", "fc_mtm.predictions.bias"),
        ("masked_words.decoder.", "fc_mtm.predictions.decoder."),
        ("masked_words.norm.", "fc_mtm.predictions.transform.LayerNorm."),
        ("masked_words.dense.", "fc_mtm.predictions.transform.dense."),
        ("masked_codes.", "fc_mvm."),
        ("head.", "fc."),
        ("words.word.", "enc_txt.emb_txt.word_embeddings."),
        ("words.position.", "enc_txt.emb_txt.position_embeddings."),
        ("words.kind.", "enc_txt.emb_txt.token_type_embeddings."),
        ("words.norm.", "enc_txt.emb_txt.LayerNorm."),
        ("video.patch.", "enc_img.swin.patch_embed.proj."),
        ("video.patch_norm.", "enc_img.swin.patch_embed.norm."),
        ("video.stages.", "enc_img.swin.layers."),
        ("video.norm.", "enc_img.swin.norm."),
        (".merge.", ".downsample."),
        (".bias.table", ".relative_position_bias_table"),
    )
    block = (
        (".attn.proj.", ".attention.output.dense."),
        (".norm1.", ".attention.output.LayerNorm."),
        (".norm2.", ".output.LayerNorm."),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
    )
    state = {"enc_txt.emb_txt.position_ids": torch.arange(12)[None]}
    for name, tensor in model.state_dict().items():
        if name == "first":
            state["enc_img.emb_cls"] = tensor
        elif name == "places":
            state["enc_img.emb_pos"] = tensor[:, None]
        elif name == "times":
            state["enc_img.emb_len"] = tensor[:, :, None]
        elif name.startswith("norm."):
            state["enc_img." + name] = tensor
        elif name.startswith("encoder."):
            name = name.replace("encoder.blocks.", "trsfr.layer.")
            for ours, theirs in block:
                name = name.replace(ours, theirs)
            if ".attn.qkv." in name:
                for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    state[name.replace(".attn.qkv.", f".attention.self.{part}.")] = piece
            else:
                state[name] = tensor
        else:
            for ours, theirs in back:
                name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
                name = name.replace(ours, theirs) if ours.startswith(".") else name
            state[name] = tensor
    if model.config.codes:  # as newer libraries write the bias once more
        state["fc_mtm.predictions.decoder.bias"] = model.state_dict()["masked_words.decoder.bias"]
    return state


@pytest.mark.parametrize("changes", [{}, {"codes": 0}, {"codes": 0, "outputs": 7}])
@torch.no_grad()
def test_official_names_load(changes) -> None:
    model = build(**changes)
    loaded = VIOLET.from_official(official_state(model), heads=4, window=(2, 3, 3), dropout=0.0).eval()
    found = dataclasses.replace(
        loaded.config,
        video=dataclasses.replace(loaded.config.video, drop_path=0.0),
        text=dataclasses.replace(loaded.config.text, dropout=0.0),
    )
    assert found == model.config
    ours = model.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in loaded.state_dict().items())


def test_foreign_checkpoints_are_refused() -> None:
    with pytest.raises(ConfigError, match="no checkpoint of VIOLET"):
        VIOLET.from_official({"weight": torch.zeros(2)})
    state = official_state(build())
    del state["fc_mvm.1.bias"]
    with pytest.raises(ConfigError, match=r"masked_codes\.1\.bias"):
        VIOLET.from_official(state, heads=4, window=(2, 3, 3))


def test_official_sizes() -> None:
    config = VIOLETConfig()
    assert config.video.grid(4, 224, 224) == (4, 7, 7)
    assert config.video.channels == config.text.dim == 768
    assert (1 + config.places**2, config.frames) == (197, 6)
