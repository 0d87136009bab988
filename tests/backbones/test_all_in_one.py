"""All in One: sizes, who hears whom, what rolling costs, any size and length, official names, losses."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import smalti
from smalti.backbones.all_in_one import AllInOne, AllInOneConfig
from smalti.backbones.all_in_one_training import (
    MaskedText,
    answer_loss,
    choice_scores,
    mask_words,
    masked_words_loss,
    matching_loss,
    parameter_groups,
    rank_from_match,
    retrieval_loss,
)
from smalti.errors import ConfigError, FormatError, MediaError
from smalti.nn.token_rolling import TokenRoll
from smalti.tokens import Tokens

TINY = AllInOneConfig(
    24, 2, 3, 2.0, 8, 32, 4, vocabulary=50, text_length=8, drop_path=0.0, dropout=0.0,
    words_head=True, match_head=True, embedding=6, answers=5, rank_head=True,
)  # fmt: skip


def build(**options) -> AllInOne:
    torch.manual_seed(0)
    model = AllInOne(dataclasses.replace(TINY, **options)).eval()
    torch.nn.init.normal_(model.pictures.times)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def clip(frames=4, side=32, batch=2):
    return torch.rand(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(2))


IDS = torch.tensor([[1, 7, 9, 3, 2, 0], [1, 4, 2, 0, 0, 0]])
MASK = IDS != 0


def preset(name, **options) -> AllInOne:
    smalti.systems("backbones")
    with torch.device("meta"):
        return smalti.create("all-in-one", name, room="backbones", **options)


@pytest.mark.parametrize(("name", "millions"), [("b", 110), ("s", 33.4), ("ti", 11.5)])
def test_parameters_of_the_presets(name, millions):
    assert preset(f"all-in-one-{name}").params() / 1e6 == pytest.approx(millions, rel=0.02)


def test_rolling_costs_nothing_and_time_is_linear():
    model, still = preset("all-in-one-b"), preset("all-in-one-b", roll=TokenRoll("none"))
    three = model.joint_flops((1, 3, 3, 224, 224), 40)
    assert three == still.joint_flops((1, 3, 3, 224, 224), 40)
    one = model.joint_flops((1, 3, 1, 224, 224), 40)
    pooler = 768 * 768
    assert three - pooler == 3 * (one - pooler)
    tokens, dim = 237, 768
    block = 12 * tokens * dim * dim + 2 * tokens * tokens * dim
    assert one == 12 * block + 196 * dim * dim + pooler


def test_frames_hear_their_neighbours_through_rolling_alone():
    model, x = build(roll=TokenRoll(share=4)), clip(frames=6)
    changed = x.clone()
    changed[:, :, 2] = 1 - changed[:, :, 2]

    def moved(rolls: TokenRoll) -> list[list[int]]:
        heard, given = [], []
        model.config = dataclasses.replace(TINY, roll=rolls)
        hooks = [
            block.register_forward_hook(lambda m, i, out: given.append(out.detach()))
            for block in model.blocks
        ]
        with torch.no_grad():
            model.encode(x, IDS, MASK)
            model.encode(changed, IDS, MASK)
        for hook in hooks:
            hook.remove()
        for before, after in zip(given[:2], given[2:], strict=True):
            text = [part.view(2, 6, -1, 24)[:, :, :6] for part in (before, after)]
            differs = (text[0] - text[1]).abs().amax((0, 2, 3)) > 1e-6
            heard.append(differs.nonzero().flatten().tolist())
        return heard

    assert moved(TokenRoll(share=4)) == [[1, 2, 3], [0, 1, 2, 3, 4]]
    assert moved(TokenRoll("none")) == [[2], [2]]


@torch.no_grad()
def test_the_first_frame_follows_the_last():
    model = build()
    model.pictures.times.zero_()
    x = clip()
    one, other = model.encode(x, IDS, MASK), model.encode(x.roll(1, 2), IDS, MASK)
    torch.testing.assert_close(one.text, other.text, atol=1e-5, rtol=1e-4)
    backwards = model.encode(x.flip(2), IDS, MASK)
    assert not torch.allclose(one.text, backwards.text, atol=1e-4)


@torch.no_grad()
def test_single_passes_do_not_roll():
    model, still = build(), build(roll=TokenRoll("none"))
    assert torch.equal(model(clip()).tokens, still(clip()).tokens)
    joint = [m.encode(clip(), IDS, MASK).video for m in (model, still)]
    assert not torch.allclose(*joint, atol=1e-4)
    features = model(clip())
    frames = torch.stack([model.encode(f).video for f in _timed(model, clip())]).mean(0)
    torch.testing.assert_close(features.tokens, frames, atol=1e-5, rtol=1e-4)


def _timed(model, pixels):
    """Frames one by one, each at its own time."""
    times = model.pictures.times.data
    for number, frame in enumerate(pixels.split(1, 2)):
        model.pictures.times.data = times[:, number : number + 1]
        yield frame
    model.pictures.times.data = times


@torch.no_grad()
def test_padding_does_not_speak():
    model = build()
    other = IDS.masked_fill(~MASK, 33)
    for pixels in (clip(), None):
        one, two = model.encode(pixels, IDS, MASK), model.encode(pixels, other, MASK)
        torch.testing.assert_close(one.text[MASK], two.text[MASK])
        torch.testing.assert_close(one.pooled, two.pooled)
    short = model.encode(None, IDS[1:, :3])
    torch.testing.assert_close(one.text[1, :3], short.text[0], atol=1e-5, rtol=1e-4)
    nothing = model.encode(None, IDS, torch.zeros_like(MASK))
    assert nothing.text.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (7, 24, 40), (2, 13, 9)])
def test_any_size_and_length(shape):
    frames, height, width = shape
    features = build()(torch.rand(2, 3, frames, height, width))
    grid = (1, -(-height // 8), -(-width // 8))
    assert features.grid == grid
    assert features.tokens.shape == (2, 1 + grid[1] * grid[2], 24)
    assert features.pooled.isfinite().all()


@torch.no_grad()
def test_times_beyond_the_table():
    zeros, linear = build(), build(stretch="linear")
    table = zeros.pictures.table_of_times(6)
    assert torch.equal(table[:, :4], zeros.pictures.times)
    assert not table[:, 4:].any()
    assert torch.equal(zeros.pictures.table_of_times(2), zeros.pictures.times[:, :2])
    stretched = linear.pictures.table_of_times(7)
    torch.testing.assert_close(stretched[:, ::2], linear.pictures.times)
    torch.testing.assert_close(stretched[:, 1], linear.pictures.times[:, :2].mean(1))


@torch.no_grad()
def test_shuffling_moves_patches_with_their_places():
    plain, shuffled = build(roll=TokenRoll("none")), build(roll=TokenRoll("none"), shuffle="official")
    one, other = plain.encode(clip(frames=1), IDS, MASK), shuffled.encode(clip(frames=1), IDS, MASK)
    torch.testing.assert_close(one.text, other.text, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.video[:, 0], other.video[:, 0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(one.video[:, 1:], other.video[:, 1:], atol=1e-3)
    torch.testing.assert_close(
        one.video[:, 1:].sort(1).values, other.video[:, 1:].sort(1).values, atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_grey_padding_is_left_out():
    model, inner = build(padding="pixels"), clip(frames=2, side=24)
    framed = torch.nn.functional.pad(inner, (0, 8, 0, 8), value=0.5)
    whole, part = model.encode(framed, IDS, MASK), model.encode(inner, IDS, MASK)
    assert whole.video_mask.sum(1).tolist() == [10, 10]
    single = [model.encode(pixels).video[:, 0] for pixels in (framed, inner)]
    torch.testing.assert_close(*single, atol=1e-5, rtol=1e-4)
    assert part.video_mask.all()
    assert build().encode(framed).video_mask.all()


def test_gradients_reach_every_parameter():
    model = build().train()
    text = MaskedText(IDS, torch.where(MASK, IDS, -100))
    loss = masked_words_loss(model, clip(), text, MASK)
    loss = loss + matching_loss(model, clip(), IDS, MASK, torch.tensor([True, False]))[0]
    loss = loss + retrieval_loss(model.embed_text(IDS, MASK), model.embed_video(clip()))
    loss = loss + answer_loss(model, clip(), IDS, MASK, torch.tensor([1, 4]))
    loss = loss + choice_scores(model, clip(), IDS[:, None].expand(-1, 3, -1)).square().sum()
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_bf16_is_near_float32():
    model = build()
    with torch.no_grad():
        exact = model.encode(clip(), IDS, MASK).pooled
        half = model.bfloat16().encode(clip().bfloat16(), IDS, MASK).pooled
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.15, rtol=0.15)


NAMES = {
    "words.word.": "text_embeddings.word_embeddings.",
    "words.position.": "text_embeddings.position_embeddings.",
    "words.sentence.": "text_embeddings.token_type_embeddings.",
    "words.norm.": "text_embeddings.LayerNorm.",
    "kind.": "token_type_embeddings.",
    "pictures.class_token": "transformer.cls_token",
    "pictures.places": "transformer.pos_embed",
    "pictures.times": "transformer.temporal_embed",
    "pictures.patches.": "transformer.patch_embed.proj.",
    "blocks.": "transformer.blocks.",
    "norm.": "transformer.norm.",
    "pooler.": "pooler.dense.",
    "masked_words.dense.": "mlm_score.transform.dense.",
    "masked_words.norm.": "mlm_score.transform.LayerNorm.",
    "masked_words.decoder.bias": "mlm_score.bias",
    "masked_words.decoder.": "mlm_score.decoder.",
    "match.": "itm_score.fc.",
    "text_projection.": "txt_proj.",
    "video_projection.": "vid_proj.",
    "rank.": "rank_output.",
    "answer.": "vqa_classifier.",
}


def official(model: AllInOne) -> dict[str, torch.Tensor]:
    state = {"text_embeddings.position_ids": torch.arange(8)[None], "train_vqa_score.score": torch.zeros(())}
    for name, tensor in model.state_dict().items():
        ours = next(key for key in NAMES if name.startswith(key))
        state[NAMES[ours] + name.removeprefix(ours)] = tensor
    return state


def test_official_names_load(tmp_path):
    model = build()
    torch.save({"state_dict": official(model), "epoch": 3}, tmp_path / "all-in-one.ckpt")
    again = smalti.load_official("all-in-one", tmp_path / "all-in-one.ckpt", room="backbones", heads=3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    longer = AllInOne.from_official(official(model), heads=3, frames=6, text_length=9)
    assert torch.equal(longer.pictures.times[:, :4], model.pictures.times)
    assert not longer.pictures.times[:, 4:].any()
    assert longer.words.position.weight.shape == (9, 24)


def test_refusals():
    model = build()
    with pytest.raises(ConfigError, match="1 to 8 tokens"):
        model.encode(clip(), torch.ones(2, 9, dtype=torch.long))
    with pytest.raises(ConfigError, match="1 to 8 tokens"):
        model.encode(None, torch.ones(2, 0, dtype=torch.long))
    with pytest.raises(FormatError, match="outside"):
        model.encode(None, torch.full((1, 2), 50))
    with pytest.raises(ConfigError, match="a text or both"):
        model.encode()
    with pytest.raises(MediaError, match="NaN"):
        model(torch.full((1, 3, 1, 8, 8), torch.nan))
    with pytest.raises(ConfigError, match="ids of words"):
        model(Tokens(values=torch.zeros(1, 2, 24)))
    with pytest.raises(ConfigError, match="embedding"):
        build(embedding=0).embed_text(IDS)
    with pytest.raises(ConfigError, match="words_head"):
        masked_words_loss(build(words_head=False), clip(), MaskedText(IDS, IDS))
    with pytest.raises(ConfigError, match="5 heads"):
        AllInOneConfig(heads=5)
    with pytest.raises(ConfigError, match="pos_embed"):
        AllInOne.from_official({"weight": torch.zeros(1)})


# --- training


def test_hidden_words():
    ids = torch.arange(200, 1200).view(4, 250)
    ids[:, 0], ids[:, -1] = 101, 102
    generator = torch.Generator().manual_seed(0)
    text = mask_words(ids, 30522, generator=generator)
    hidden = text.labels != -100
    assert hidden.float().mean() == pytest.approx(0.15, abs=0.04)
    assert not hidden[:, [0, -1]].any()
    assert torch.equal(text.labels[hidden], ids[hidden])
    assert torch.equal(text.ids[~hidden], ids[~hidden])
    assert (text.ids[hidden] == 103).float().mean() == pytest.approx(0.8, abs=0.1)
    assert (text.ids[hidden] == ids[hidden]).float().mean() == pytest.approx(0.1, abs=0.08)
    words = (torch.arange(250) // 5).expand(4, -1)
    whole = (mask_words(ids, 30522, words=words, generator=generator).labels != -100).view(4, 50, 5)
    assert (whole[:, 1:-1].all(-1) == whole[:, 1:-1].any(-1)).all()


def test_retrieval_loss_by_hand():
    text, video = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    wanted = 2 * torch.log(1 + torch.exp(torch.tensor(-2.0)))
    torch.testing.assert_close(retrieval_loss(text, video, 0.5), wanted)


def test_ranking_starts_as_matching():
    model = build()
    rank_from_match(model)
    with torch.no_grad():
        scores = choice_scores(model, clip(), IDS[:, None], MASK[:, None])[:, 0]
        yes = model.match(model.encode(clip(), IDS, MASK).pooled)[:, 1]
    torch.testing.assert_close(scores, yes)


def test_heads_learn_faster():
    groups = parameter_groups(build(), 1e-4)
    assert sorted((g["lr"], g["weight_decay"]) for g in groups) == [
        (1e-4, 0.0), (1e-4, 0.01), (pytest.approx(1e-3), 0.0), (pytest.approx(1e-3), 0.01)
    ]  # fmt: skip
    assert sum(len(g["params"]) for g in groups) == len(list(build().parameters()))
