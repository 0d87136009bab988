"""What every registered reducer must do, and every criterion with every strategy.

A system that must know its tokens' channels or says otherwise what it is made of names a small one in `TINY`.
"""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import smalti
from smalti.errors import ConfigError, UnsupportedError
from smalti.nn import clustering
from smalti.reducers import Assign, Context, Gather, Reducer, Reduction
from smalti.reducers.criteria import CRITERIA
from smalti.reducers.strategies import STRATEGIES

DIM = 16
TINY: dict[str, dict[str, Any]] = {"ia-red2": {"dim": DIM, "heads": 2}}
SKEWED = ("holitom-inner",)  # merges by other weights than masses
CARDS = {card.name: card for card in smalti.systems("reducers")}
PAIRS = [f"{criterion}+{strategy}" for criterion in CRITERIA for strategy in STRATEGIES]
FIELDS = {field.name for field in dataclasses.fields(Context)}
every_system = pytest.mark.parametrize("name", [*CARDS, *PAIRS])


@cache
def build(name: str) -> Reducer:
    torch.manual_seed(1)
    if "+" in name:
        criterion, strategy = name.split("+")
        return smalti.create("composed", room="reducers", criterion=criterion, strategy=strategy).eval()
    return smalti.create(name, room="reducers", **TINY.get(name, {})).eval()


def drops(name: str) -> bool:
    """Whether tokens may vanish with their mass."""
    return name.endswith("+prune") or name == "composed" or ("+" not in name and "prune" in CARDS[name].tags)


def whole(name: str) -> list[tuple[int, Tensor, Context, Reduction]]:
    """The reductions that must keep all mass: of no pruning method, with more left than what is protected."""
    return [] if drops(name) else [case for case in reductions(name) if case[0] > case[2].protected]


def context_of(x: Tensor, grid: tuple[int, int, int], protected: int, mass: Tensor | None) -> Context:
    """Everything a criterion may ask for, each sample's own made of its own tokens and nothing else."""
    scaled = torch.stack([x.float(), 2 * x.float()], 1)

    def attention_map() -> Tensor:
        return (scaled @ scaled.mT / DIM**0.5).softmax(-1)

    def attention(queries: str) -> Tensor:
        rows = {"class": slice(0, 1), "last": slice(-1, None), "all": slice(None)}[queries]
        return attention_map()[:, :, rows].mean((1, 2))

    plane = grid[1] * grid[2]
    frames = (torch.arange(x.shape[1]) - protected).clamp(min=0) // plane
    return Context(
        attention=attention,
        attention_map=attention_map,
        keys=lambda: x.flip(-1)[..., : DIM // 2],
        gradient=lambda: x.roll(1, -1),
        logits=lambda: x[..., :5],
        question=x[:, -1],
        predictor=lambda some: some[..., 0],
        frames=frames.expand(len(x), -1),
        grid=grid,
        mass=mass,
        protected=protected,
    )


def scene(
    batch: int = 1, protected: int = 0, grid: tuple[int, int, int] = (1, 5, 7), weighed: bool = False
) -> tuple[Tensor, Context]:
    generator = torch.Generator().manual_seed(batch + protected)
    size = grid[0] * grid[1] * grid[2] + protected
    x = torch.randn(batch, size, DIM, generator=generator)
    mass = torch.randint(1, 4, (batch, size), generator=generator).float() / 3 if weighed else None
    return x, context_of(x, grid, protected, mass)


SCENES = [
    {},
    {"batch": 3, "protected": 1, "weighed": True},
    {"protected": 2, "grid": (4, 4, 3), "weighed": True},
    {"batch": 3, "protected": 0, "grid": (4, 4, 3)},
]


@cache
def reductions(name: str) -> list[tuple[int, Tensor, Context, Reduction]]:
    """Asked counts, tokens, contexts and what came of them."""
    found, reducer = [], build(name)
    for options in SCENES:
        x, context = scene(**options)
        size, front = x.shape[1], context.protected
        least = reducer.least(size, front)
        for count in sorted({least, least + 1, (size + least) // 2, size - 1}):
            found.append((count, x, context, reducer.reduce(x, context, count)))
    return found


@every_system
def test_exactly_the_count_asked_is_left(name) -> None:
    for count, x, _, reduction in reductions(name):
        assert (reduction.count, reduction.size) == (count, x.shape[1])
        assert reduction.mask.all()
        y = reduction.apply(x)
        assert y.shape == (len(x), count, DIM)
        assert y.isfinite().all()
        assert reduction.restore(y).shape == x.shape
        torch.testing.assert_close(y, reduction.matrix() @ x, atol=1e-4, rtol=1e-4)


@every_system
def test_every_source_is_known(name) -> None:
    for count, x, _, reduction in reductions(name):
        source = reduction.source_map
        assert source.shape == x.shape[:2]
        assert source.min() >= -1
        assert source.max() < count
        if isinstance(reduction, Gather | Assign):
            for sample in source:
                assert set(range(count)) <= set(sample.tolist())


@every_system
def test_protected_tokens_stay_in_front_bit_by_bit(name) -> None:
    for _, x, context, reduction in reductions(name):
        front = context.protected
        assert torch.equal(reduction.apply(x)[:, :front], x[:, :front])
        torch.testing.assert_close(reduction.mass[:, :front], context.weights(x)[:, :front])
        assert torch.equal(reduction.source_map[:, :front], torch.arange(front).expand(len(x), -1))
        restored = reduction.restore(reduction.apply(x))
        torch.testing.assert_close(restored[:, :front], x[:, :front])


@every_system
def test_mass_is_kept_or_dropped_but_never_made(name) -> None:
    for _, x, context, reduction in reductions(name):
        before, after = context.weights(x).sum(1), reduction.mass.sum(1)
        assert (reduction.mass > 0).all()
        assert (after <= before * (1 + 1e-5)).all()
    for _, x, context, reduction in whole(name):
        torch.testing.assert_close(reduction.mass.sum(1), context.weights(x).sum(1))
        assert (reduction.source_map >= 0).all()


@every_system
def test_merging_keeps_the_mean(name) -> None:
    merged = [case for case in whole(name) if isinstance(case[-1], Assign)]
    for _, x, context, reduction in merged if name not in SKEWED else []:
        before = (x * context.weights(x)[..., None]).sum(1)
        after = (reduction.apply(x) * reduction.mass[..., None]).sum(1)
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-5)


@every_system
def test_what_is_equal_everywhere_stays_so(name) -> None:
    for _, x, _, reduction in reductions(name):
        constant = torch.full_like(x, 2.5)
        torch.testing.assert_close(reduction.apply(constant), constant[:, : reduction.count])
        restored = reduction.restore(reduction.apply(constant))
        kept = reduction.source_map >= 0
        torch.testing.assert_close(restored[kept], constant[kept])


@every_system
def test_asking_for_all_changes_nothing(name) -> None:
    x, context = scene(batch=2, protected=1, weighed=True)
    for count in (x.shape[1], x.shape[1] + 5):
        reduction = build(name).reduce(x, context, count)
        assert torch.equal(reduction.apply(x), x)
        assert torch.equal(reduction.restore(x), x)
        assert torch.equal(reduction.mass, context.weights(x))


@every_system
def test_too_few_are_refused(name) -> None:
    x, context = scene(protected=2)
    for count in (1, 0, -3):
        with pytest.raises(ConfigError, match="at least 2"):
            build(name).reduce(x, context, count)
    least = build(name).least(x.shape[1], 2)
    if least > 2:
        with pytest.raises(ConfigError):
            build(name).reduce(x, context, least - 1)


@every_system
def test_its_own_count_is_a_count(name) -> None:
    for options in SCENES:
        x, context = scene(**options)
        reduction = build(name).reduce(x, context)
        assert max(context.protected, 1) <= reduction.count <= x.shape[1]
        assert reduction.mask[:, : context.protected].all()
        y, empty = reduction.apply(x), ~reduction.mask
        assert not y[empty].any()
        assert not reduction.mass[empty].any()


@every_system
def test_the_same_again(name) -> None:
    x, context = scene(batch=2, protected=1)
    count = (x.shape[1] + build(name).least(x.shape[1], 1)) // 2
    once = build(name).reduce(x, context, count)
    torch.manual_seed(99)  # nothing may hang on the global generator
    again = build(name).reduce(x.clone(), context_of(x.clone(), (1, 5, 7), 1, None), count)
    assert torch.equal(once.apply(x), again.apply(x))
    assert torch.equal(once.source_map, again.source_map)


@every_system
def test_samples_do_not_see_each_other(name) -> None:
    x, context = scene(batch=3, protected=1)
    count = (x.shape[1] + build(name).least(x.shape[1], 1)) // 2
    together = build(name).reduce(x, context, count)
    for sample in range(3):
        one = x[sample : sample + 1]
        alone = build(name).reduce(one, context_of(one, (1, 5, 7), 1, None), count)
        assert torch.equal(alone.source_map, together.source_map[sample : sample + 1])
        torch.testing.assert_close(
            alone.apply(one), together.apply(x)[sample : sample + 1], atol=1e-5, rtol=1e-5
        )


@every_system
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_equal_tokens_do_no_harm(name, level) -> None:
    x = torch.full((2, 36, DIM), level)
    context = context_of(x, (1, 5, 7), 1, None)
    count = (36 + build(name).least(36, 1)) // 2
    reduction = build(name).reduce(x, context, count)
    assert reduction.count == count
    assert reduction.mask.all()
    torch.testing.assert_close(reduction.apply(x), x[:, :count])
    assert reduction.restore(reduction.apply(x)).isfinite().all()
    assert reduction.mass.isfinite().all()


@every_system
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_decides_as_single_does(name, dtype) -> None:
    x = scene(batch=2, protected=1)[0].to(dtype)
    count = (x.shape[1] + build(name).least(x.shape[1], 1)) // 2
    half, single = (
        build(name).reduce(tokens, context_of(tokens, (1, 5, 7), 1, None), count) for tokens in (x, x.float())
    )
    assert half.apply(x).dtype == dtype
    assert half.restore(half.apply(x)).dtype == dtype
    assert (half.source_map == single.source_map).float().mean() > 0.9
    assert half.mass.dtype == torch.float32
    torch.testing.assert_close(half.mass.sum(), single.mass.sum())


@every_system
def test_what_is_lacking_is_named(name) -> None:
    x, everything = scene(protected=1)
    count = (x.shape[1] + build(name).least(x.shape[1], 1)) // 2
    given: dict[str, Any] = {"protected": 1}
    for _ in FIELDS:
        try:
            build(name).reduce(x, Context(**given), count)
            break
        except UnsupportedError as error:
            message = str(error)
        lacking = FIELDS & set(re.findall(r"\w+", message)) - set(given)
        assert lacking, message
        given |= {field: getattr(everything, field) for field in lacking}
    else:
        pytest.fail(f"{name} asks for more than there is")
    if "+" in name:
        criterion = CRITERIA[name.split("+")[0]]
        assert set(given) == {"protected", *criterion.needs}


@every_system
def test_gradients_flow_to_the_tokens(name) -> None:
    x, context = scene(protected=1)
    count = (x.shape[1] + build(name).least(x.shape[1], 1)) // 2
    leaf = x.clone().requires_grad_()
    reduction = build(name).reduce(x, context, count)
    reduction.restore(reduction.apply(leaf)).square().sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert leaf.grad[reduction.source_map >= 0].any(-1).all()


class Largest(TorchDispatchMode):
    """Remembers the largest memory behind a tensor that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        for made in out if isinstance(out, tuple | list) else [out]:
            if isinstance(made, Tensor):
                self.bytes = max(self.bytes, made.untyped_storage().nbytes())
        return out


FRUGAL = ["tome", "random", "uniform", "pool", "attention+prune", "attention+fuse", "attention+merge"]
FRUGAL += [f"{c}+{s}" for c in ("bipartite", "k-means", "diversity", "dpc-knn") for s in ("prune", "merge")]


@pytest.mark.parametrize("name", FRUGAL)
def test_no_square_of_the_tokens_is_ever_made(name, monkeypatch) -> None:
    monkeypatch.setattr(clustering, "CHUNK", 2**18)
    size = 4096
    x = torch.randn(1, size, 8)
    context = Context(attention=lambda queries: x[..., 0], keys=lambda: x)
    reducer = build(name)
    with Largest() as largest:
        reduction = reducer.reduce(x, context, max(256, reducer.least(size, 0)))
        reduction.restore(reduction.apply(x))
        assert reduction.mass.sum() > 0
    assert 4 * size < largest.bytes < 4 * size * size / 8


def test_the_watch_sees_squares() -> None:
    x = torch.randn(1, 256, 8)
    with Largest() as largest:
        build("k-medoids+merge").reduce(x, Context(), 16)
    assert largest.bytes >= 4 * 256 * 256
