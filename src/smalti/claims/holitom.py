"""HoliTom: merging over time describes real films better than the most attended tokens of every frame."""

from __future__ import annotations

from itertools import permutations
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from smalti import media
from smalti.claims.base import Finding, Lab, claim
from smalti.claims.material import small_vit
from smalti.claims.moving import backgrounds, clutter, paint, straight
from smalti.errors import ConfigError
from smalti.evaluation.pretrained import pretrained
from smalti.nn.attention import received
from smalti.nn.film_cut import best_cut, gains
from smalti.reducers.base import Context
from smalti.reducers.holitom import HoliTom, HoliTomConfig, similarities
from smalti.training.corpora.fetch import cache_home
from smalti.training.corpora.manifest import Manifest

SIDE, FRAMES, SECONDS, BLOCK = 140, 16, 2.0, 7  # DINOv2-small's features are best after this block
RATIOS, SMALL = (0.05, 0.1, 0.15, 0.25), (0.05, 0.1, 0.15)
SPLICED = 4  # frames of every film that a splice is made of
HOLITOM, ATTENDED, UNIFORM = "HoliTom", "each frame's most attended", "evenly spaced"


class Film(NamedTuple):
    """Patch features of a film's frames, and the attention that every patch receives in its own frame."""

    name: str
    features: Float[Tensor, "f n d"]
    attention: Float[Tensor, "f n"]


@torch.no_grad()
def film(name: str, model: Any, frames: Float[Tensor, "f 3 s s"], block: int) -> Film:
    """What a vision transformer makes of some frames after a block."""
    attended: list[Tensor] = []
    attention = model.blocks[block].attn

    def listen(_: Any, given: tuple[Tensor, ...]) -> None:
        heads = attention.qkv(given[0]).unflatten(2, (3, attention.num_heads, -1))
        queries, keys, _ = heads.permute(2, 0, 3, 1, 4)
        attended.append(received(queries, keys, attention.scale, queries="all"))

    hook = attention.register_forward_pre_hook(listen)
    (features,) = model.forward_intermediates(
        frames, [block], output_fmt="NLC", intermediates_only=True, stop_early=True
    )
    hook.remove()
    return Film(name, features, attended[0][:, model.num_prefix_tokens :])


def real_films(model: Any) -> list[Film]:
    """Two seconds from the middle of every clip of the corpus, or all of a shorter one.

    Raises:
        ConfigError: the corpus is not assembled on this machine.
    """
    root = cache_home() / "data" / "clips"
    manifest = Manifest.read(root)
    if manifest is None:
        raise ConfigError("no clips: assemble them with smalti data clips")
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, None, :, None, None].unbind(0)
    films = []
    for item in manifest.items:
        whole = item.frames / (item.fps or 1)
        start, end = item.start or 0.0, item.end or whole
        middle, length = (start + end) / 2, min(end - start, SECONDS)
        cut = media.read(
            root / item.file,
            size=(SIDE, SIDE),
            frames=FRAMES,
            start=middle - length / 2 if length < whole else None,
            end=middle + length / 2 if length < whole else None,
            progress=False,
        )
        if cut.pixels.shape[2] == FRAMES:
            frames = ((cut.pixels - mean[:, :, None]) / std[:, :, None])[0].transpose(0, 1)
            films.append(film(f"{item.package}, {item.inner.rpartition('/')[2]}", model, frames, BLOCK))
    return films


def rendered_films(model: Any, count: int) -> list[Film]:
    """The same of squares that move on clutter, for a quick run."""
    generator = torch.Generator().manual_seed(0)
    behind = backgrounds(clutter(count, 0), count, 48, generator)[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    centre = straight(torch.full((count, 2), 10.0), torch.rand(count, 2, generator=generator) * 2, FRAMES)
    clip = paint(behind, torch.ones(count).long(), torch.rand(count, 3), centre, torch.full((count,), 6.0))
    return [film(f"rendered {n}", model, frames.transpose(0, 1), 3) for n, frames in enumerate(clip)]


def nearest_error(source: Float[Tensor, "n d"], kept: Float[Tensor, "m d"]) -> float:
    """Squared distance of every token to the nearest kept one, as a share of the tokens' variance."""
    near = torch.cdist(source, kept).square().amin(1).sum()
    return (near / (source - source.mean(0)).square().sum()).item()


def kept_tokens(film: Film, method: str, ratio: float) -> Float[Tensor, "m d"]:
    """The tokens that a method leaves of a film: so many in all."""
    frames, size, dim = film.features.shape
    count = round(ratio * frames * size)
    if method == HOLITOM:
        side = round(size**0.5)
        context = Context(grid=(frames, side, side), attention=lambda _: film.attention.flatten()[None])
        options = HoliTomConfig(ratio=ratio, tau=0.65 if ratio <= 0.1 else 0.8)  # the paper's
        tokens = film.features.reshape(1, -1, dim)
        return HoliTom(options).reduce(tokens, context, count).apply(tokens)[0]
    if method == ATTENDED:
        best = film.attention.topk(count // frames, 1).indices[..., None].expand(-1, -1, dim)
        return film.features.gather(1, best).flatten(0, 1)
    spaced = ((torch.arange(count // frames) + 0.5) * size * frames / count).long()
    return film.features[:, spaced].flatten(0, 1)


def boundaries(features: Float[Tensor, "f n d"], tau: float) -> set[int]:
    """First frames of all windows but the first."""
    return {first for first, _ in best_cut(gains(similarities(features) > tau)).windows[1:]}


def splices(films: list[Film], tau: float) -> dict[str, Any]:
    """How well the windows of four films in a row find where one becomes the next, moving and held still."""
    found = chosen = exact = 0
    rings = [
        [films[(start + jump * step) % len(films)] for jump in range(4)]
        for step in (1, 3)
        for start in range(len(films))
    ]
    cuts = {SPLICED, 2 * SPLICED, 3 * SPLICED}
    for ring in rings:
        cut = boundaries(torch.cat([one.features[:SPLICED] for one in ring]), tau)
        found, chosen = found + len(cut & cuts), chosen + len(cut)
    pairs = list(permutations(films, 2))
    for first, second in pairs:
        held = [one.features[:1].expand(count, -1, -1) for one, count in ((first, 5), (second, 3))]
        exact += boundaries(torch.cat(held), tau) == {5}
    return {
        "measure": "splices",
        "tau": tau,
        "found": found / (3 * len(rings)),
        "boundaries": chosen / len(rings),
        "by chance": chosen / len(rings) / (4 * SPLICED - 1),
        "exact between stills": exact / len(pairs),
    }


@claim("holitom", minutes=3.0)
@torch.no_grad()
def holitom(lab: Lab) -> Finding:
    """Nearest-token error of films at equal tokens, and the cuts between films that are joined."""
    films = rendered_films(small_vit().eval(), 3) if lab.quick else real_films(pretrained("dinov2-small"))
    methods = (HOLITOM, ATTENDED, UNIFORM)
    rows: list[dict[str, Any]] = [
        {
            "measure": "error",
            "film": film.name,
            "method": method,
            "ratio": ratio,
            "error": nearest_error(film.features.flatten(0, 1), kept_tokens(film, method, ratio)),
        }
        for film in films
        for ratio in RATIOS
        for method in methods
    ]
    joined = [splices(films, tau) for tau in (0.8, 0.65)]
    rows += joined

    def errors(method: str, ratio: float) -> list[float]:
        return [row["error"] for row in rows if row.get("method") == method and row.get("ratio") == ratio]

    def mean(method: str, ratio: float) -> float:
        return sum(errors(method, ratio)) / len(films)

    def draw(axes: Any) -> None:
        for method in methods:
            axes.plot(RATIOS, [mean(method, ratio) for ratio in RATIOS], "o-", label=method)
        axes.set(xlabel="share of tokens kept", ylabel="nearest-token error / variance")
        axes.legend(fontsize=8)

    better = {
        ratio: sum(a < b for a, b in zip(errors(HOLITOM, ratio), errors(ATTENDED, ratio), strict=True))
        for ratio in RATIOS
    }
    return Finding(
        statements={
            "at 5, 10 and 15 % of the tokens its mean error is below that of each frame's most attended": all(
                mean(HOLITOM, ratio) < mean(ATTENDED, ratio) for ratio in SMALL
            ),
            "it is the better one on most films": all(better[ratio] > len(films) / 2 for ratio in SMALL),
            "between two stills the only boundary is the cut": joined[0]["exact between stills"] >= 0.95,
            "95 % of the splices of moving films are boundaries": joined[0]["found"] >= 0.95,
        },
        figure="; ".join(
            f"{ratio:.0%}: "
            + ", ".join(f"{method} {mean(method, ratio):.3f}" for method in methods)
            + f", better on {better[ratio]} of {len(films)} films"
            for ratio in RATIOS
        )
        + f"; {joined[0]['found']:.0%} of splices found, {joined[0]['by chance']:.0%} by chance",
        rows=rows,
        data=f"{len(films)} clips of the corpus, {FRAMES} frames of two seconds each, DINOv2-small after "
        "block 8",
        notes="The paper's tokens are a video-LLM's after its projector, its measure the answers; here 100 "
        "tokens a frame of a vision transformer, and the error of the nearest kept token. Thresholds are the "
        "paper's.",
        draw=draw,
    )
