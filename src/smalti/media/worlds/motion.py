"""How things of a small world move: straight, off walls, off one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

STEPS = 4  # a frame
NEAR = 0.35  # of the sum of radii: centres as near as this lie behind one another


@dataclass(frozen=True)
class Thing:
    """One shape.

    Attributes:
        kind: of shape.
        colour: by name.
        size: "small" or "big".
        radius: half the side of its square, in pixels; what collides is the circle of this radius.
        start: x and y of its centre when it begins to move, in pixels.
        velocity: x and y, in pixels a frame.
        layer: of higher layers hide those of lower ones; things of one layer collide.
        since: the frame in which it appears.
    """

    kind: str
    colour: str
    size: str
    radius: float
    start: tuple[float, float]
    velocity: tuple[float, float]
    layer: int = 0
    since: int = 0


@dataclass(frozen=True)
class Event:
    """What happens.

    Attributes:
        frame: the first that shows it.
        verb: "appears", "enters", "leaves", "bounces", "hits" or "passes" (behind the other).
        actor: number of the thing that does it.
        other: number of the thing that it is done to.
    """

    frame: int
    verb: str
    actor: int
    other: int | None = None


class Tracks(NamedTuple):
    """Attributes:
    centres: x and y of every thing in every frame, in pixels.
    present: whether it has appeared and lies within the picture, if only in part.
    """

    centres: Float[np.ndarray, "n t 2"]
    present: Bool[np.ndarray, "n t"]


def simulate(
    things: Sequence[Thing], size: tuple[int, int], frames: int, walls: bool
) -> tuple[Tracks, tuple[Event, ...]]:
    """Move all things.

    Args:
        things: as they start.
        size: height and width of the picture.
        frames: how many.
        walls: the borders throw things back; else they pass.

    Returns:
        Where they are, and what happened, in order of time.
    """
    extent = np.array([size[1], size[0]], float)
    place = np.array([thing.start for thing in things])
    speed = np.array([thing.velocity for thing in things])
    radius = np.array([thing.radius for thing in things])[:, None]
    since = np.array([thing.since for thing in things])
    centres = np.empty((len(things), frames, 2))
    present = np.empty((len(things), frames), bool)
    events: list[Event] = []
    touching: set[tuple[int, int]] = set()
    collide = [(i, j) for i, j in combinations(range(len(things)), 2) if things[i].layer == things[j].layer]
    hide = [(i, j) for i, j in permutations(range(len(things)), 2) if things[i].layer < things[j].layer]
    steps = STEPS if walls or collide else 1
    for frame in range(frames):
        active = since < frame  # from the frame after the first that shows it
        for _ in range(steps if frame else 0):
            place[active] += speed[active] / steps
            if walls:
                events += _off_walls(place, speed, radius, extent, frame, active)
            for i, j in collide:
                if since[i] <= frame and since[j] <= frame:
                    events += _collision(things, place, speed, i, j, frame)
        centres[:, frame] = place
        inside = ((place > -radius) & (place < extent + radius)).all(1)
        present[:, frame] = inside & (since <= frame)
        if frame:
            events += _comings(present[:, frame - 1 : frame + 1], since == frame, frame)
        for i, j in hide:
            near = np.hypot(*(place[i] - place[j])) < NEAR * (radius[i, 0] + radius[j, 0])
            near = near and present[i, frame] and present[j, frame]
            if near and (i, j) not in touching:
                events.append(Event(frame, "passes", i, j))
            (touching.add if near else touching.discard)((i, j))
    return Tracks(centres, present), tuple(sorted(events, key=lambda event: event.frame))


def _off_walls(
    place: np.ndarray,
    speed: np.ndarray,
    radius: np.ndarray,
    extent: np.ndarray,
    frame: int,
    active: np.ndarray,
) -> list[Event]:
    """Turn round what has reached a border."""
    out = ((place < radius) & (speed < 0)) | ((place > extent - radius) & (speed > 0))
    out &= active[:, None]
    speed[out] *= -1
    return [Event(frame, "bounces", int(number)) for number in np.flatnonzero(out.any(1))]


def _collision(
    things: Sequence[Thing], place: np.ndarray, speed: np.ndarray, i: int, j: int, frame: int
) -> list[Event]:
    """Exchange momentum along the line between two centres, if they touch and approach each other."""
    between = place[j] - place[i]
    distance = float(np.hypot(*between))
    if distance > things[i].radius + things[j].radius or distance == 0:
        return []
    normal = between / distance
    closing = float((speed[i] - speed[j]) @ normal)
    if closing <= 0:
        return []
    masses = things[i].radius ** 2, things[j].radius ** 2
    actor, other = (i, j) if speed[i] @ normal >= -(speed[j] @ normal) else (j, i)
    push = 2 * closing / sum(masses) * normal
    speed[i] -= masses[1] * push
    speed[j] += masses[0] * push
    return [Event(frame, "hits", actor, other)]


def _comings(present: np.ndarray, appears: np.ndarray, frame: int) -> list[Event]:
    """Who appeared, entered or left between two frames."""
    before, now = present.T
    came = [
        Event(frame, "appears" if appears[number] else "enters", int(number))
        for number in np.flatnonzero(now & ~before)
    ]
    return came + [Event(frame, "leaves", int(number)) for number in np.flatnonzero(before & ~now)]
