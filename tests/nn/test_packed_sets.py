from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.packed_sets import PackedSets, packed, packed_attention, place_angles
from smalti.nn.rotary_pairs import turn_pairs


def test_sets_come_back_as_they_went_in() -> None:
    sets = [(torch.randn(n, 3), torch.randint(9, (n, 4))) for n in (2, 1, 4)]
    batch = packed(sets)
    assert batch.counts == [2, 1, 4]
    for (features, places), (again, where) in zip(sets, batch.sets(), strict=True):
        assert torch.equal(features, again)
        assert torch.equal(places, where)


@pytest.mark.parametrize("numbers", [[1, 1], [0, 2], [1, 0], [0, 1, 0]])
def test_sets_that_are_not_behind_each_other_are_refused(numbers: list[int]) -> None:
    places = F.pad(torch.tensor(numbers)[:, None], (0, 4))
    with pytest.raises(ConfigError, match="behind each other"):
        PackedSets(torch.zeros(len(numbers), 2), places)
    with pytest.raises(ConfigError, match="one each"):
        PackedSets(torch.zeros(len(numbers) + 1, 2), places)
    with pytest.raises(ConfigError, match="nothing to pack"):
        packed([])


def test_attention_is_that_of_every_set() -> None:
    asking, asked = [2, 1, 2, 3], [4, 2, 4, 1]
    q, k, v = (torch.randn(2, sum(n), 4) for n in (asking, asked, asked))
    found = packed_attention(q, k, v, asking, asked).split(asking, 1)
    rows = (part.split(n, 1) for part, n in ((q, asking), (k, asked), (v, asked)))
    for answer, own in zip(found, zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(answer, F.scaled_dot_product_attention(*own))


def test_angles_rise_by_axis_with_waves_of_the_whole_head() -> None:
    angles = place_angles(torch.tensor([[1, 2, 3, 4]]), 16)[0]
    slow = 10_000 ** (-1 / 16)
    expected = [place * wave for place in (1, 2, 3, 4) for wave in (1, slow)]
    torch.testing.assert_close(angles, torch.tensor(expected))


@pytest.mark.parametrize("axis", range(4))
def test_only_distances_matter_to_what_tokens_say_to_each_other(axis: int) -> None:
    q, k = torch.randn(1, 1, 5, 16), torch.randn(1, 1, 5, 16)
    places = torch.randint(8, (5, 4))

    def logits(places: torch.Tensor) -> torch.Tensor:
        angles = place_angles(places, 16)
        return turn_pairs(q, angles) @ turn_pairs(k, angles).mT

    shifted = places.clone()
    shifted[:, axis] += 6
    torch.testing.assert_close(logits(shifted), logits(places), atol=1e-4, rtol=1e-4)
    shifted[0, axis] += 1
    assert not torch.allclose(logits(shifted), logits(places), atol=1e-3)
