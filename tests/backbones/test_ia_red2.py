import itertools

import pytest
import torch

from smalti.backbones.ia_red2 import IARed2ViT, IARed2ViTConfig, flops_share
from smalti.errors import ConfigError
from smalti.reducers.ia_red2 import IARed2Config

SMALL = {
    "reducer": IARed2Config(dim=16, heads=2, depth=6, groups=3),
    "size": 32,
    "patch": 4,
    "heads": 4,
    "classes": 5,
}


def small(threshold: float = 0.5, **options) -> IARed2ViT:
    reducer = IARed2Config(dim=16, heads=2, depth=6, groups=3, threshold=threshold)
    model = IARed2ViT(IARed2ViTConfig(**SMALL | {"reducer": reducer} | options)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 1, 32, 32)


def plain(model: IARed2ViT, pixels: torch.Tensor) -> torch.Tensor:
    x = model.embed(pixels)
    for block in model.blocks:
        x = block(x)
    return model.classify(x)


def test_threshold_zero_is_the_backbone() -> None:
    model, pixels = small(0.0), pictures()
    with torch.no_grad():
        assert torch.equal(model(pixels), plain(model, pixels))
        torch.testing.assert_close(model.run(pixels).logits, plain(model, pixels))


def test_masked_and_gathered_paths_agree() -> None:
    model, pixels = small(), pictures(4)
    with torch.no_grad():
        masked = model.run(pixels)
        kept = [alive.sum(1).tolist() for alive in masked.alive]
        assert all(min(row) < 65 for row in kept), "something must be dropped"
        assert len(set(kept[0])) > 1, "a ragged batch is what this tests"
        torch.testing.assert_close(model(pixels), masked.logits, atol=1e-5, rtol=1e-5)
        for number in range(4):
            alone = model(pixels[number : number + 1])
            torch.testing.assert_close(alone, masked.logits[number : number + 1], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(masked.logits, plain(model, pixels), atol=1e-3)


def test_groups_are_nested_and_the_class_token_stays() -> None:
    alive = small().run(pictures()).alive
    assert all(kept[:, 0].all() for kept in alive)
    for before, after in itertools.pairwise(alive):
        assert not (after & ~before).any()
        assert (after != before).any()


def test_counts_are_kept_exactly_and_agree_with_the_masked_path() -> None:
    model, pixels = small(), pictures()

    def best(scores, alive, group):
        urgency = torch.where(alive, scores, -1.0)
        urgency[:, 0] = 2
        chosen = urgency.topk((40, 25, 10)[group]).indices
        return torch.zeros_like(alive).scatter(1, chosen, True)

    with torch.no_grad():
        masked = model.run(pixels, best)
        assert [int(alive.sum(1).unique()) for alive in masked.alive] == [40, 25, 10]
        torch.testing.assert_close(model(pixels, (40, 25, 10)), masked.logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="3 groups"):
        model(pixels, (40,))


def test_groups_beyond_the_curriculum_work_on_the_same_tokens() -> None:
    taken = small().run(pictures(), active=0)
    assert torch.equal(taken.alive[1], taken.alive[0])
    assert torch.equal(taken.alive[2], taken.alive[0])
    assert not taken.alive[0].all()


def official(model: IARed2ViT, doubled: bool = True) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in model.state_dict().items():
        if name.startswith("blocks.") and doubled:
            _, block, rest = name.split(".", 2)
            state[f"groups.{int(block) // 2}.block_list.{int(block) % 2}.{rest}"] = value
        if not name.startswith("reducer."):
            state[name] = value
    for group, interpreter in enumerate(model.reducer.interpreters):
        for kind in ("weight", "bias"):
            query, key = getattr(interpreter.query, kind), getattr(interpreter.key, kind)
            state[f"groups.{group}.agent.qk.{kind}"] = torch.cat([query, key, torch.randn_like(key)])
    return {name: value.detach() for name, value in state.items()}


def test_released_weights_load() -> None:
    model, pixels = small(), pictures()
    loaded = IARed2ViT.from_official(official(model), **SMALL).eval()
    with torch.no_grad():
        assert torch.equal(loaded(pixels), model(pixels))
    broken = official(model)
    del broken["head.bias"]
    with pytest.raises(ConfigError, match=r"head\.bias"):
        IARed2ViT.from_official(broken, **SMALL)
    with pytest.raises(ConfigError, match=r"pos_embed"):
        IARed2ViT.from_official(official(model), **SMALL | {"size": 64})


def test_a_plain_transformer_loads_without_interpreters() -> None:
    model, pixels = small(0.0), pictures()
    state = {name: value for name, value in official(model, False).items() if "agent" not in name}
    loaded = IARed2ViT.from_official(state, **SMALL | {"reducer": model.config.reducer}).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels), plain(model, pixels))


def test_work_falls_by_a_third_as_reported() -> None:
    ratios = (1.0, 0.7, 0.3)
    alive = tuple(torch.arange(100)[None] < 100 * ratio for ratio in ratios)
    torch.testing.assert_close(flops_share(alive, (4, 4, 4)), torch.tensor([2 / 3]))
    torch.testing.assert_close(flops_share(alive, (2, 4, 4)), torch.tensor([0.6]))


def test_pictures_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="32×32"):
        small()(torch.rand(1, 3, 1, 28, 32))
    with pytest.raises(ConfigError, match="2 frames"):
        small()(torch.rand(1, 3, 2, 32, 32))
    with pytest.raises(ConfigError, match="patches"):
        IARed2ViTConfig(size=30)
    with pytest.raises(ConfigError, match="temporal"):
        IARed2ViTConfig(reducer=IARed2Config(temporal=(0,)))
