"""Scenes of small worlds: who is there, and how they move."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from smalti.errors import ConfigError, nearest
from smalti.media.worlds.motion import Event, Thing, Tracks, simulate

KINDS = ("circle", "square", "triangle", "diamond", "ring", "cross")
SOLID = KINDS[:4]
COLOURS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.75, 0.2),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.9, 0.1),
    "violet": (0.7, 0.1, 0.85),
    "orange": (1.0, 0.5, 0.05),
    "cyan": (0.1, 0.85, 0.9),
    "white": (0.97, 0.97, 0.97),
}
RADII = {"small": 0.09, "big": 0.14}  # of the shorter side
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PLOTS = ("rests", "moves", "bounces", "hits", "passes", "appears", "enters", "leaves")
PLAIN = ("rests", "moves")
BACKGROUNDS = ("noise", "stripes", "checks", "plain")
SPLITS = {
    "train": range(10_000_000),
    "validation": range(10_000_000, 11_000_000),
    "test": range(11_000_000, 12_000_000),
}
TRIES = 2000


def seeds(split: str) -> range:
    """Seeds of "train", "validation" or "test"; no seed is in two of them.

    Raises:
        ConfigError: no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"no split {split!r}: {nearest(split, SPLITS)}")
    return SPLITS[split]


@dataclass(frozen=True)
class Scene:
    """One clip's worth of a world.

    Attributes:
        seed: that it was drawn with.
        height: in pixels.
        width: in pixels.
        frames: how many.
        things: all of them; the first is the actor whom the caption is about.
        plot: what the actor does.
        walls: whether things bounce off the borders, or leave.
        background: its pattern.
    """

    seed: int
    height: int
    width: int
    frames: int
    things: tuple[Thing, ...]
    plot: str
    walls: bool = False
    background: str = "noise"

    @cached_property
    def _simulated(self) -> tuple[Tracks, tuple[Event, ...]]:
        return simulate(self.things, (self.height, self.width), self.frames, self.walls)

    @property
    def tracks(self) -> Tracks:
        """Centres of all things, and who is there, in every frame."""
        return self._simulated[0]

    @property
    def events(self) -> tuple[Event, ...]:
        """What happens, in order of time."""
        return self._simulated[1]

    @property
    def direction(self) -> str:
        """Where the actor sets out to: of `DIRECTIONS`, or "nowhere"."""
        return heading(self.things[0].velocity)


def heading(velocity: tuple[float, float]) -> str:
    """The direction that a velocity is nearest to, or "nowhere"."""
    if velocity == (0.0, 0.0):
        return "nowhere"
    return max(DIRECTIONS, key=lambda name: float(np.dot(DIRECTIONS[name], velocity)))


@dataclass(frozen=True)
class World:
    """What scenes have in common.

    Attributes:
        height: of the frames, in pixels.
        width: of the frames.
        frames: of a clip; 1 is a picture.
        things: the least and the most that a scene has; a plot that needs two has two at least.
        plots: that scenes are drawn from, all equally often; those of few frames are "rests" and "moves".
        kinds: of shapes.
        colours: of things; no two things of a scene share one.
        backgrounds: patterns.

    Raises:
        ConfigError: sides below 16 pixels, no frame, names that are unknown, more things than colours.
    """

    height: int = 64
    width: int = 64
    frames: int = 16
    things: tuple[int, int] = (1, 3)
    plots: tuple[str, ...] = ()
    kinds: tuple[str, ...] = KINDS
    colours: tuple[str, ...] = tuple(COLOURS)
    backgrounds: tuple[str, ...] = BACKGROUNDS

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 16 or self.frames < 1:
            raise ConfigError(
                f"a world of {self.frames} frames of {self.height} × {self.width} pixels: "
                "it needs sides of 16 or more, and a frame"
            )
        least, most = self.things
        if not 1 <= least <= most <= min(6, len(self.colours)):
            raise ConfigError(f"{least} to {most} things: choose 1 to 6, and no more than there are colours")
        for given, known in (
            (self.plots, PLOTS),
            (self.kinds, KINDS),
            (self.colours, tuple(COLOURS)),
            (self.backgrounds, BACKGROUNDS),
        ):
            for name in given:
                if name not in known:
                    raise ConfigError(f"a world knows no {name!r}: {nearest(name, known)}")
        if not self.plots:
            possible = PLOTS if self.frames >= 8 else PLAIN if self.frames > 1 else PLAIN[:1]
            object.__setattr__(self, "plots", possible)
        if not self.kinds or not self.backgrounds:
            raise ConfigError("a world needs a kind of shapes and a background")
        for plot in self.plots:
            if self.frames < (1 if plot == "rests" else 2 if plot == "moves" else 8):
                raise ConfigError(f"{plot!r} cannot be shown in {self.frames} frames: take 8 or more")

    def scene(self, seed: int) -> Scene:
        """The scene of a seed.

        Raises:
            ConfigError: a negative seed, or a world too full for the plot.
        """
        if seed < 0:
            raise ConfigError(f"a seed is 0 or more, not {seed}")
        rng = np.random.default_rng((seed, 0))
        plot = str(rng.choice(self.plots))
        background = str(rng.choice(self.backgrounds))
        for _ in range(TRIES):
            scene = Scene(
                seed,
                self.height,
                self.width,
                self.frames,
                self._cast(plot, rng),
                plot,
                plot == "bounces",
                background,
            )
            if _is_clear(scene):
                return scene
        raise ConfigError(
            f"no scene of plot {plot!r} was found for seed {seed}: ask for fewer things or more pixels"
        )

    def _cast(self, plot: str, rng: np.random.Generator) -> tuple[Thing, ...]:
        """The actor, whom it meets, and bystanders."""
        least, most = self.things
        meets = plot in ("hits", "passes")
        count = max(int(rng.integers(least, most + 1)), 1 + meets)
        colours = rng.choice(self.colours, count, replace=False)
        cast = [self._thing(str(colour), rng) for colour in colours]
        cast[0] = self._acting(cast[0], plot, rng)
        if meets:
            cast[1] = self._met(cast[0], cast[1], plot, rng)
        layers = rng.permutation(count) - count  # behind all of those that act
        for number in range(1 + meets, count):
            moves = self.frames > 1 and rng.random() < 0.5
            bystander = replace(cast[number], layer=int(layers[number]))
            cast[number] = self._acting(bystander, "moves" if moves else "rests", rng)
        return tuple(cast)

    def _thing(self, colour: str, rng: np.random.Generator) -> Thing:
        size = str(rng.choice(list(RADII)))
        radius = RADII[size] * min(self.height, self.width)
        return Thing(str(rng.choice(self.kinds)), colour, size, radius, (0.0, 0.0), (0.0, 0.0))

    def _acting(self, thing: Thing, plot: str, rng: np.random.Generator) -> Thing:
        """The thing where it starts, with its velocity and the frame since which it is there."""
        extent = np.array([self.width, self.height], float)
        anywhere = thing.radius + rng.random(2) * (extent - 2 * thing.radius)
        if plot == "rests":
            return replace(thing, start=_pair(anywhere))
        way = np.array(DIRECTIONS[str(rng.choice(list(DIRECTIONS)))], float)
        along = int(np.abs(way).argmax())
        forth = float(way[along])
        travel = extent[along] * rng.uniform(*TRAVEL[plot])
        since = int(rng.integers(self.frames // 4, self.frames // 2)) if plot == "appears" else 0
        across = np.roll(np.abs(way), 1) * travel * rng.uniform(-0.15, 0.15)
        velocity = (way * travel + across) / (self.frames - 1 - since)
        wall = extent[along] if forth > 0 else 0.0
        share = rng.uniform(0.4, 0.7)
        start = anywhere
        if plot == "bounces":
            start[along] = wall - forth * (thing.radius + share * travel)
        elif plot == "leaves":
            start[along] = wall + forth * (thing.radius - share * travel)
        elif plot == "enters":
            start[along] = extent[along] - wall - forth * (thing.radius + 0.02 * extent[along])
        return replace(thing, start=_pair(start), velocity=_pair(velocity), since=since)

    def _met(self, actor: Thing, other: Thing, plot: str, rng: np.random.Generator) -> Thing:
        """The thing that the actor hits, or passes behind, half-way."""
        velocity = np.array(actor.velocity)
        point = np.array(actor.start) + velocity * (self.frames - 1) * rng.uniform(0.4, 0.6)
        if plot == "passes":
            solid = [kind for kind in SOLID if kind in self.kinds] or list(SOLID)
            return replace(other, start=_pair(point), layer=1, kind=str(rng.choice(solid)))
        ahead = velocity / np.linalg.norm(velocity) * (actor.radius + other.radius)
        return replace(other, start=_pair(point + ahead))


TRAVEL = {  # of the side along which a thing moves
    "moves": (0.25, 0.6),
    "bounces": (0.5, 0.8),
    "hits": (0.45, 0.7),
    "passes": (0.5, 0.7),
    "appears": (0.25, 0.5),
    "enters": (0.4, 0.7),
    "leaves": (0.5, 0.8),
}


def _pair(point: np.ndarray) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def _is_clear(scene: Scene) -> bool:
    """Whether all start within the picture and apart, and the actor does what the plot says and no more."""
    for number, thing in enumerate(scene.things):
        enters = scene.plot == "enters" and number == 0
        x, y = thing.start
        room = min(x, y, scene.width - x, scene.height - y)
        if room < thing.radius - 1e-6 and not enters:
            return False
        for other in scene.things[:number]:
            if np.hypot(x - other.start[0], y - other.start[1]) < thing.radius + other.radius:
                return False
    done = [event.verb for event in scene.events if event.actor == 0]
    if done != ([] if scene.plot in PLAIN else [scene.plot]):
        return False
    met = {event.other for event in scene.events if event.actor == 0} - {None}
    if met - {1}:
        return False
    last = scene.tracks.centres[0, -1]
    radius = scene.things[0].radius
    gone = (last < radius).any() or (last > np.array([scene.width, scene.height]) - radius).any()
    return scene.plot == "leaves" or not gone
