"""Batches of worlds: clips with their captions, every clip in turn, and a schedule that descends."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from smalti.claims.clips_of_worlds import WORDS, batches, clips, descend
from smalti.media.worlds import DIRECTIONS, VOCABULARY, World, caption


def test_clips_carry_their_captions_and_splits_differ() -> None:
    world = World(16, 24, 4)
    shown, tested = clips(world, "train", 3), clips(world, "test", 3)
    assert shown.pixels.shape == (3, 3, 4, 16, 24)
    assert shown.ids.shape == (3, WORDS)
    assert [VOCABULARY.decode(row) for row in shown.ids] == [caption(scene) for scene in shown.scenes]
    assert not torch.equal(shown.pixels, tested.pixels)
    later = clips(world, "train", 1, first=2)
    assert torch.equal(later.pixels, shown.part([2]).pixels)


def test_labels_are_places_among_names() -> None:
    shown = clips(World(16, 16, 4, plots=("moves",)), "train", 5)
    names = tuple(DIRECTIONS)
    labels = shown.labels(lambda scene: scene.direction, names)
    assert [names[n] for n in labels] == [scene.direction for scene in shown.scenes]


def test_every_clip_comes_in_turn() -> None:
    found = batches(6, 4, 3, seed=0)
    assert [len(row) for row in found] == [4, 4, 4]
    assert set(Counter(number for row in found for number in row).values()) == {2}
    assert found == batches(6, 4, 3, seed=0) != batches(6, 4, 3, seed=1)


def test_descend_finds_the_least_value() -> None:
    place = nn.Parameter(torch.zeros(2))
    wanted = torch.tensor([0.5, -0.25])
    descend([place], [lambda: (place - wanted).square().sum()] * 200, 0.05, decay=0.0)
    torch.testing.assert_close(place.detach(), wanted, atol=0.01, rtol=0)
