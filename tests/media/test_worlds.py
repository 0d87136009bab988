"""Small worlds: the same for every seed, and words that agree with what is seen."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from smalti.errors import ConfigError
from smalti.media.worlds import (
    ANSWERS,
    COLOURS,
    DIRECTIONS,
    KINDS,
    PLOTS,
    VOCABULARY,
    Clip,
    Scene,
    Thing,
    World,
    caption,
    questions,
    render,
    seeds,
)
from smalti.media.worlds import scene as scene_module
from smalti.media.worlds.paint import SHAPES

WORLD = World(48, 64, 16, things=(1, 4))
SEEDS = range(120)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [render(WORLD.scene(seed)) for seed in SEEDS]


def dominant(move: np.ndarray) -> str:
    return max(DIRECTIONS, key=lambda name: float(move @ np.array(DIRECTIONS[name])))


def test_equal_seeds_give_equal_clips_and_others_differ() -> None:
    first, again, other = (render(WORLD.scene(seed)) for seed in (5, 5, 6))
    assert first.scene == again.scene
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.masks, again.masks)
    assert not torch.equal(first.pixels, other.pixels)


@pytest.mark.parametrize(("height", "width", "frames"), [(16, 16, 1), (33, 50, 5), (120, 48, 40)])
def test_any_size_and_length(height: int, width: int, frames: int) -> None:
    clip = render(World(height, width, frames, things=(1, 2)).scene(3))
    assert clip.pixels.shape == (3, frames, height, width)
    assert clip.masks.shape[1:] == (frames, height, width)
    assert clip.pixels.dtype == torch.float32
    assert clip.pixels.min() >= 0
    assert clip.pixels.max() <= 1


def test_splits_share_no_seed() -> None:
    splits = [seeds(name) for name in ("train", "validation", "test")]
    assert all(before.stop <= after.start for before, after in pairwise(splits))
    with pytest.raises(ConfigError, match="train"):
        seeds("trian")


def test_all_plots_kinds_and_colours_come_up(clips: list[Clip]) -> None:
    assert {clip.scene.plot for clip in clips} == set(PLOTS)
    things = [thing for clip in clips for thing in clip.scene.things]
    assert {thing.kind for thing in things} == set(KINDS) == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)
    for clip in clips:
        colours = [thing.colour for thing in clip.scene.things]
        assert len(set(colours)) == len(colours)


def test_boxes_are_the_extent_of_the_masks(clips: list[Clip]) -> None:
    for clip in clips[::7]:
        for masks, boxes in zip(clip.masks, clip.boxes, strict=True):
            for mask, box in zip(masks, boxes, strict=True):
                rows, columns = mask.nonzero(as_tuple=True)
                if not len(rows):
                    assert box.tolist() == [0, 0, 0, 0]
                    continue
                wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert box.tolist() == [int(side) for side in wanted]


def test_masks_have_the_things_colours_and_lie_around_their_centres(clips: list[Clip]) -> None:
    for clip in clips[::5]:
        assert clip.masks.sum(0).max() <= 1
        for number, thing in enumerate(clip.scene.things):
            for frame in range(0, 16, 5):
                mask = clip.masks[number, frame]
                if mask.sum() < 30:
                    continue
                seen = clip.pixels[:, frame, mask].median(1).values
                torch.testing.assert_close(seen, torch.tensor(COLOURS[thing.colour]), atol=0.05, rtol=0)
                x, y = clip.scene.tracks.centres[number, frame]
                left, top, right, bottom = clip.boxes[number, frame].tolist()
                assert x - thing.radius - 1 <= left <= right <= x + thing.radius + 1
                assert y - thing.radius - 1 <= top <= bottom <= y + thing.radius + 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_is_background(kind: str) -> None:
    thing = Thing(kind, "red", "big", 6.0, (16.0, 16.0), (1.0, 0.0), since=3)
    clip = render(Scene(0, 32, 32, 6, (thing,), "appears"))
    assert torch.equal(clip.pixels[:, 0], clip.pixels[:, 2])
    assert clip.visible[0].tolist() == [False] * 3 + [True] * 3
    assert not torch.equal(clip.pixels[:, 2], clip.pixels[:, 3])
    assert [(event.frame, event.verb) for event in clip.scene.events] == [(3, "appears")]


def test_the_caption_says_what_the_tracks_show(clips: list[Clip]) -> None:
    for clip in clips:
        scene, (actor, *others) = clip.scene, clip.scene.things
        words = caption(scene)
        assert words.startswith(f"a {actor.colour} {actor.kind} ")
        track, seen = scene.tracks.centres[0], clip.visible[0]
        moved = np.diff(track, axis=0)
        if scene.plot == "rests":
            assert not moved.any()
            assert words.endswith("rests")
            continue
        moved = moved[np.flatnonzero(moved.any(1))[0] :]
        first = moved[0]
        assert f"moves {dominant(first)}" in words
        steady = np.allclose(moved, first, atol=1e-6)
        assert steady == (scene.plot not in ("bounces", "hits"))
        assert ("appears" in words or "enters" in words) == (not seen[0])
        assert ("leaves" in words) == (not seen[-1])
        assert bool(seen[0] and seen[-1]) == (scene.plot in ("moves", "bounces", "hits", "passes"))
        if scene.plot in ("hits", "passes"):
            assert words.endswith(f"a {others[0].colour} {others[0].kind}")
        if scene.plot == "hits":
            gaps = np.linalg.norm(track - scene.tracks.centres[1], axis=1)
            assert 0 < gaps.argmin() < 15
            assert np.abs(np.diff(scene.tracks.centres[1], axis=0)).sum() > 0
        if scene.plot == "passes":
            area = clip.masks[0].flatten(1).sum(1)
            assert area.min() < 0.85 * area.max()


def test_what_collides_keeps_its_momentum() -> None:
    for seed in range(2000, 2012):
        scene = World(plots=("hits",), things=(2, 2)).scene(seed)
        masses = np.array([thing.radius**2 for thing in scene.things])[:, None]
        moved = np.diff(scene.tracks.centres, axis=1)
        np.testing.assert_allclose((masses * moved[:, 0]).sum(0), (masses * moved[:, -1]).sum(0))


def answer(clip: Clip, kind: str, text: str) -> str:
    """What the rendered clip itself says."""
    scene, words = clip.scene, text.split()
    by_colour = {thing.colour: number for number, thing in enumerate(scene.things)}
    speeds = []
    for centres, there in zip(scene.tracks.centres, scene.tracks.present, strict=True):
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)[there[1:] & there[:-1]]
        speeds.append(steps.mean() if len(steps) else 0.0)
    asked = [by_colour[word] for word in words if word in by_colour]
    if kind == "number":
        kinds = [thing.kind for thing in scene.things]
        plural = words[2].removesuffix("s") if words[2] != "crosses" else "cross"
        seen = [
            bool(one.any()) and (plural in ("thing", name))
            for one, name in zip(clip.visible, kinds, strict=True)
        ]
        return ("zero", "one", "two", "three", "four")[sum(seen)]
    if kind == "colour":
        (number,) = [n for n, thing in enumerate(scene.things) if thing.kind == words[-2]]
        frame = int(clip.masks[number].flatten(1).sum(1).argmax())
        seen = clip.pixels[:, frame, clip.masks[number, frame]].median(1).values
        return min(COLOURS, key=lambda name: float((seen - torch.tensor(COLOURS[name])).abs().sum()))
    if kind == "shape":
        return scene.things[asked[0]].kind
    if kind == "size":
        return "big" if scene.things[asked[0]].radius > 0.12 * 48 else "small"
    if kind == "direction":
        centres = scene.tracks.centres[asked[0]]
        return dominant(centres[-1] - centres[0])
    if kind == "faster":
        return scene.things[max(asked, key=lambda number: speeds[number])].colour
    return min(scene.events, key=lambda event: event.frame).verb


def test_questions_are_answered_by_what_is_seen(clips: list[Clip]) -> None:
    asked = [(clip, question) for clip in clips for question in questions(clip.scene)]
    assert {question.kind for _, question in asked} == {
        "colour",
        "shape",
        "size",
        "number",
        "direction",
        "faster",
        "first",
    }
    for clip, question in asked:
        assert question.answer in ANSWERS
        assert question.answer == answer(clip, question.kind, question.text), question


def test_words_are_encoded_and_decoded(clips: list[Clip]) -> None:
    texts = [caption(clip.scene) for clip in clips]
    texts += [
        part
        for clip in clips
        for question in questions(clip.scene)
        for part in (question.text, question.answer)
    ]
    numbers = VOCABULARY.encode(texts, 24)
    assert numbers.shape == (len(texts), 24)
    assert [VOCABULARY.decode(row) for row in numbers] == texts
    assert numbers.max() < len(VOCABULARY) == len(set(VOCABULARY.words))
    assert (numbers[:, 0] == VOCABULARY.number("[cls]")).all()


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="square"):
        World(kinds=("sqare",))
    with pytest.raises(ConfigError, match="frames"):
        World(frames=4, plots=("hits",))
    with pytest.raises(ConfigError, match="16 or more"):
        World(height=8)
    with pytest.raises(ConfigError, match="things"):
        World(things=(3, 2))
    with pytest.raises(ConfigError, match="seed"):
        World().scene(-1)
    with pytest.raises(ConfigError, match="purple"):
        VOCABULARY.encode(["a purple square"])
    with pytest.raises(ConfigError, match="fit"):
        VOCABULARY.encode(["a red square rests"], 4)


def test_a_world_without_room_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_module, "TRIES", 0)
    with pytest.raises(ConfigError, match="fewer things"):
        World().scene(0)
