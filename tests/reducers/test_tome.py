"""What must be true of token merging."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smalti.errors import ConfigError
from smalti.nn import clustering
from smalti.nn.attention import attention_map
from smalti.reducers import Assign, Context, Reduction
from smalti.reducers.tome import ToMe, ToMeConfig


def merged(
    x: Tensor, count: int | None, protected: int = 1, mass: Tensor | None = None, **options
) -> Reduction:
    return ToMe(ToMeConfig(**options)).reduce(x, Context(protected=protected, mass=mass), count)


@pytest.mark.parametrize("size", [5, 16, 197])
@pytest.mark.parametrize("protected", [0, 1, 2, 5])
def test_exactly_r_tokens_leave_and_half_at_most(size, protected) -> None:
    x = torch.randn(2, size, 8)
    most = (size - protected) // 2
    for r in range(0, most + 1, max(1, most // 3)):
        assert merged(x, size - r, protected).apply(x).shape == (2, size - r, 8)
    assert torch.equal(merged(x, size, protected).apply(x), x)
    assert merged(x, None, protected).count == size - most
    assert ToMe().least(size, protected) == size - most
    if size - most > max(protected, 1):
        with pytest.raises(ConfigError, match=str(size - most)):
            merged(x, size - most - 1, protected)


@pytest.mark.parametrize("protected", [0, 1, 2])
def test_mass_and_mean_are_kept_over_stacked_layers(protected) -> None:
    x = torch.randn(2, 50, 8)
    mass, y, whole = None, x, None
    for count in (40, 31, 20):
        step = merged(y, count, protected, mass)
        y, mass = step.apply(y), step.mass
        whole = step if whole is None else whole.then(step)
    assert whole is not None
    torch.testing.assert_close(whole.mass, mass)
    torch.testing.assert_close(whole.mass.sum(1), torch.full((2,), 50.0))
    torch.testing.assert_close(whole.apply(x), y)
    torch.testing.assert_close((y * whole.mass[..., None]).sum(1), x.sum(1), atol=1e-4, rtol=1e-5)
    member = (whole.matrix() > 0).float()
    assert (member.sum(1) == 1).all()
    torch.testing.assert_close(member @ x / member.sum(-1, keepdim=True), y)


@pytest.mark.parametrize("protected", [0, 1, 2, 3])
def test_the_way_back_copies_what_a_pair_became(protected) -> None:
    x = torch.randn(1, 24, 8)
    found = merged(x, 18, protected)
    back = found.restore(found.apply(x))
    source = found.source_map[0]
    assert back.shape == x.shape
    for place in range(24):
        mates = source == source[place]
        if mates.sum() == 1:
            assert torch.equal(back[0, place], x[0, place])
        torch.testing.assert_close(back[0, place], x[0, mates].mean(0))
    assert torch.equal(back[:, :protected], x[:, :protected])
    assert source[:protected].tolist() == list(range(protected))


def test_equal_tokens_at_an_even_and_an_odd_place_go_first() -> None:
    x = torch.randn(1, 20, 8)
    x[0, 7] = 3 * x[0, 12]  # cosine 1
    source = merged(x, 19).source_map[0]
    assert source[7] == source[12]
    x[0, 8], x[0, 7] = x[0, 12], torch.randn(8)  # both even: they cannot meet
    source = merged(x, 19).source_map[0]
    assert source[8] != source[12]


def test_tokens_out_are_kept_even_ones_then_odd_ones() -> None:
    x = torch.randn(1, 11, 8)
    x[0, 4] = x[0, 5]
    with_class = merged(x, 10)
    assert with_class.source_map.tolist() == [[0, 5, 1, 6, 7, 7, 2, 8, 3, 9, 4]]
    unit = torch.nn.functional.normalize(x[0], dim=-1)
    similar = (unit[::2] @ unit[1::2].T).amax(1)
    without = merged(x, 10, 0).source_map[0]
    order = [2 * place for place in similar.argsort(descending=True).tolist()[1:]]
    assert without[order].tolist() == list(range(5))


def test_proportional_attention_to_a_merged_token_is_attention_to_both() -> None:
    q, k, v = torch.randn(3, 1, 2, 9, 8)
    k[:, :, 4], v[:, :, 4] = k[:, :, 7], v[:, :, 7]
    whole = attention_map(q, k, 0.3) @ v
    left = [place for place in range(9) if place != 7]
    size = torch.ones(8).index_fill(0, torch.tensor(4), 2.0)
    bias = size.log().view(1, 1, 1, 8)
    torch.testing.assert_close(attention_map(q, k[:, :, left], 0.3, bias) @ v[:, :, left], whole)
    assert ToMe().proportional
    assert not ToMe(ToMeConfig(proportional=False)).proportional


def test_keys_decide_unless_tokens_are_asked_for() -> None:
    x, keys = torch.randn(2, 16, 8), torch.randn(2, 16, 5)
    by = {
        metric: ToMe(ToMeConfig(metric=metric)).reduce(x, Context(keys=lambda: keys), 10).source_map
        for metric in ("keys", "tokens")
    }
    assert torch.equal(by["keys"], ToMe().reduce(keys, Context(), 10).source_map)
    assert torch.equal(by["tokens"], ToMe().reduce(x, Context(), 10).source_map)


@pytest.mark.parametrize("protected", [0, 1, 2])
def test_chunks_change_nothing(monkeypatch, protected) -> None:
    x = torch.randn(2, 257, 16)
    whole = merged(x, 150, protected)
    monkeypatch.setattr(clustering, "CHUNK", 1000)
    assert torch.equal(merged(x, 150, protected).source_map, whole.source_map)


@pytest.mark.parametrize(("size", "count", "dropped"), [(24, 8, 0), (26, 8, 2), (24, 17, 0), (23, 11, 1)])
def test_every_kth_token_takes_the_others(size, count, dropped) -> None:
    x = torch.randn(2, size + 1, 8)
    found = merged(x, count + 1, split="kth")
    assert found.count == count + 1
    assert (found.source_map < 0).sum(1).tolist() == [dropped] * 2
    assert found.mask.all()
    assert (found.source_map == 0).sum() == 2  # none joins the class token
    step = size // count
    if size // step == count:
        assert found.source_map[0, step : step * count + 1 : step].tolist() == list(range(1, count + 1))


def test_drawn_tokens_join_their_nearest_of_all_others() -> None:
    x = torch.randn(2, 21, 8)
    found = merged(x, 15, split="random")
    assert torch.equal(found.source_map, merged(x, 15, split="random").source_map)
    assert not torch.equal(found.source_map, merged(x, 15, split="random", seed=1).source_map)
    assert isinstance(found, Assign)
    sample = found.source_map[0]
    unit = torch.nn.functional.normalize(x[0], dim=-1)
    first = [int((sample == group).nonzero()[0]) for group in range(15)]
    assert len(first) == 15
    drawn = _drawn(21, 6)
    left = [place for place in range(1, 21) if place not in drawn]
    for place in drawn:
        nearest = left[int((unit[left] @ unit[place]).argmax())]
        assert sample[place] == sample[nearest]


def _drawn(size: int, removed: int) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return [place + 1 for place in torch.randperm(size - 1, generator=generator)[:removed].tolist()]


def test_an_unknown_split_is_refused() -> None:
    config = ToMeConfig()
    object.__setattr__(config, "split", "thirds")  # as from Python without checks of types
    with pytest.raises(ConfigError, match="alternate"):
        config.__post_init__()
