"""What HoliTom's outer merging promises."""

import pytest
import torch

from smalti.errors import ConfigError, UnsupportedError
from smalti.reducers import Context
from smalti.reducers.holitom import HoliTom, HoliTomConfig, with_newlines


def context(tokens, grid, **more):
    received = torch.rand(tokens.shape[:2], generator=torch.Generator().manual_seed(9))
    return Context(attention=lambda queries: received, grid=grid, **more)


def film(frames=6, places=16, dim=12, moving=4, cuts=(), batch=1, seed=0):
    """A background that stands still between cuts, and some places that never do."""
    random = torch.Generator().manual_seed(seed)
    whole = torch.randn(batch, frames, places, dim, generator=random)
    for first, last in zip((0, *cuts), (*cuts, frames), strict=True):
        background = torch.randn(batch, 1, places - moving, dim, generator=random)
        whole[:, first:last, moving:] = background + 0.05 * whole[:, first:last, moving:]
    return whole


def test_everything_is_kept_where_nothing_stands_still():
    video = film()
    tokens = video.flatten(1, 2)
    found = HoliTom(HoliTomConfig(ratio=1.0, tau=1.5)).reduce(tokens, context(tokens, (6, 4, 4)))
    assert torch.equal(found.apply(tokens), tokens)


def test_a_film_that_stands_still_is_one_window():
    video = torch.randn(16, 12).expand(6, -1, -1)
    plan = HoliTom(HoliTomConfig(ratio=0.1)).plan(video)
    assert plan.windows == ((0, 5),)
    assert plan.saved == 5 * 16
    assert plan.ratio == pytest.approx(0.6)
    assert HoliTom(HoliTomConfig(ratio=0.25)).plan(video).ratio == 1
    tokens = video.flatten(0, 1)[None]
    found = HoliTom(HoliTomConfig(ratio=0.25)).reduce(tokens, context(tokens, (6, 4, 4)))
    torch.testing.assert_close(found.apply(tokens)[0], video[0])
    assert found.mass.tolist() == [[6.0] * 16]


def test_cuts_of_the_film_are_borders_of_windows():
    assert HoliTom().plan(film(cuts=(2, 3))[0]).windows == ((0, 1), (2, 2), (3, 5))


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.4])
def test_count_follows_the_ratio(ratio):
    tokens = film(cuts=(3,)).flatten(1, 2)
    found = HoliTom(HoliTomConfig(ratio=ratio)).reduce(tokens, context(tokens, (6, 4, 4)))
    assert abs(found.count - ratio * 96) <= 2 + 6


@pytest.mark.parametrize("newline", ["one_token", "grid"])
@pytest.mark.parametrize("count", [1, 7, 20, 47, 60, 95])
def test_any_count_can_be_asked_for(count, newline):
    tokens = film(cuts=(3,), moving=2, batch=2).flatten(1, 2)
    found = HoliTom(HoliTomConfig(newline=newline)).reduce(tokens, context(tokens, (6, 4, 4)), count)
    assert found.count == count
    assert found.mask.all()
    kept = (found.source_map >= 0).sum(1)
    torch.testing.assert_close(found.mass.sum(1), kept.float())


def test_shares_of_merged_tokens():
    video = torch.zeros(2, 4, 3)
    video[:] = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0.9, -0.1, 0], [0, 0, 1.0]])
    tokens = video.flatten(0, 1)[None]
    for plain in (False, True):
        found = HoliTom(HoliTomConfig(plain_mean=plain)).reduce(tokens, context(tokens, (2, 2, 2)), 1)
        rows = found.matrix()[0]
        torch.testing.assert_close(rows.sum(1), torch.ones(1))
        big = rows[0].view(2, 4)
        assert torch.equal(big[0], big[1])  # frames count the same
        expected = [1 / 8] * 4 if plain else [*[0.4 / 6] * 3, 0.3]
        torch.testing.assert_close(big[0].sort().values, torch.tensor(expected))


def test_the_most_attended_moving_tokens_stay():
    tokens = torch.randn(1, 30, 8, generator=torch.Generator().manual_seed(0))
    given = context(tokens, (1, 5, 6))
    found = HoliTom().reduce(tokens, given, 9)
    best = given.attention("all")[0].topk(9).indices.sort().values
    assert torch.equal(found.apply(tokens)[0], tokens[0, best])


def test_contextual_tokens_are_merged_by_their_definition():
    tokens = torch.randn(1, 30, 8, generator=torch.Generator().manual_seed(0))
    given = context(tokens, (1, 5, 6))
    found = HoliTom(HoliTomConfig(contextual=0.5)).reduce(tokens, given, 10)
    dominant = given.attention("all")[0].topk(5).indices.sort().values
    assert torch.equal(found.source_map[0, dominant], torch.arange(5))
    assert (found.source_map >= 0).all()
    assert found.mass.sum() == 30


def test_videos_of_a_batch_stay_apart_and_prefixes_stay():
    tokens = torch.cat([film(cuts=(3,)), film(moving=14, seed=1)]).flatten(1, 2)
    tokens = torch.cat([torch.randn(2, 1, 12), tokens], 1)
    given = context(tokens, (6, 4, 4), protected=1)
    both = HoliTom().reduce(tokens, given)
    alone = HoliTom().reduce(tokens[:1], context(tokens[:1], (6, 4, 4), protected=1))
    length = int(both.mask[0].sum())
    torch.testing.assert_close(both.apply(tokens)[:1, :length], alone.apply(tokens[:1]))
    torch.testing.assert_close(both.apply(tokens)[:, 0], tokens[:, 0])
    assert both.mask.sum(1)[0] != both.mask.sum(1)[1]
    assert HoliTom().reduce(tokens, given, 1).apply(tokens).shape[1] == 1


def test_frames_serve_as_well_as_a_grid():
    tokens = film().flatten(1, 2)
    by_grid = context(tokens, (6, 4, 4))
    frames = torch.arange(6).repeat_interleave(16)[None]
    by_frames = Context(attention=by_grid.attention, frames=frames)
    expected = HoliTom().reduce(tokens, by_grid).source_map
    assert torch.equal(HoliTom().reduce(tokens, by_frames).source_map, expected)


def test_equal_tokens_and_halves():
    tokens = torch.ones(1, 32, 4).half()
    found = HoliTom().reduce(tokens, context(tokens, (2, 4, 4)), 5)
    torch.testing.assert_close(found.apply(tokens), tokens[:, :5])
    assert found.mask.all()


def test_time_is_used_where_attention_alone_cannot():
    video = film(frames=10, moving=2, seed=3)
    tokens = video.flatten(1, 2)
    always = torch.rand(16, generator=torch.Generator().manual_seed(0)).repeat(10)[None]
    given = Context(attention=lambda queries: always, grid=(10, 4, 4))
    found = HoliTom().reduce(tokens, given, 24)
    scores = given.attention("all").view(1, 10, 16)
    kept = (scores.topk(3, -1).indices + 16 * torch.arange(10)[:, None]).view(1, -1)[:, :24]
    ours, top = found.apply(tokens), tokens[:, kept[0]]

    def error(few):
        return torch.cdist(tokens, few).amin(-1).mean()

    assert error(ours) < error(top)


def test_newlines_end_rows_that_have_tokens():
    anchor = torch.tensor([0, 1, 5, 9, 10, 12])
    tokens = torch.arange(6.0)[:, None]
    found = with_newlines(tokens, anchor, torch.tensor([-1.0]), 3)
    assert found[:, 0].tolist() == [0, 1, -1, 2, -1, 3, 4, -1, 5, -1]


def test_what_cannot_be_is_refused():
    tokens = torch.randn(1, 12, 4)
    with pytest.raises(ConfigError, match="grid"):
        HoliTom().reduce(tokens, context(tokens, (2, 2, 2)))
    with pytest.raises(UnsupportedError, match="attention"):
        HoliTom().reduce(tokens, Context(grid=(3, 2, 2)))
    with pytest.raises(ConfigError, match="beta"):
        HoliTomConfig(beta=1.5)
