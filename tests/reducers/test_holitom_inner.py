"""What HoliTom's inner merging promises."""

import pytest
import torch

from smalti.errors import ConfigError
from smalti.reducers import Context
from smalti.reducers.holitom_inner import HoliTomInner, HoliTomInnerConfig, between, positions


def one_after_the_other(tokens, kept):
    """The merging as it is told: halves in turn."""
    states, original = tokens.clone(), tokens.clone()
    for place in range(len(tokens)):
        if place in kept:
            continue
        cosine = torch.cosine_similarity(original[place][None], original[kept], dim=-1)
        best = kept[int(cosine.argmax())]
        states[best] = (states[best] + states[place]) / 2
    return states[kept]


@pytest.mark.parametrize("count", [1, 4, 11, 19])
def test_halves_in_turn(count):
    random = torch.Generator().manual_seed(count)
    tokens = torch.randn(2, 20, 6, generator=random)
    received = torch.rand(2, 20, generator=random)
    inner = HoliTomInner()
    found = inner.reduce(tokens, Context(attention=lambda queries: received), count)
    assert found.count == count
    torch.testing.assert_close(found.mass.sum(1), torch.full((2,), 20.0))
    for sample in range(2):
        kept = received[sample].topk(count).indices.sort().values.tolist()
        assert inner.kept(received, count)[sample].tolist() == kept
        torch.testing.assert_close(found.apply(tokens)[sample], one_after_the_other(tokens[sample], kept))


def test_the_ratio_is_what_leaves():
    tokens, received = torch.randn(1, 18, 4), torch.rand(1, 18)
    inner = HoliTomInner(HoliTomInnerConfig(ratio=0.25))
    assert inner.reduce(tokens, Context(attention=lambda queries: received)).count == round(18 * 0.75)


def test_text_around_stays_where_it_is():
    prompt, received = torch.randn(1, 15, 4), torch.rand(1, 8)
    found = HoliTomInner().reduce(prompt[:, 3:11], Context(attention=lambda queries: received))
    whole = between(found, 3, 4)
    out = whole.apply(prompt)
    assert torch.equal(out[:, :3], prompt[:, :3])
    assert torch.equal(out[:, -4:], prompt[:, -4:])
    torch.testing.assert_close(out[:, 3:-4], found.apply(prompt[:, 3:11]))
    place = positions(torch.tensor([[1, 4]]), 3, 8, 15)
    assert place.tolist() == [[0, 1, 2, 4, 7, 11, 12, 13, 14]]


def test_equal_tokens_and_protected_text():
    tokens, received = torch.ones(1, 12, 4), torch.ones(1, 12)
    given = Context(attention=lambda queries: received, protected=2)
    found = HoliTomInner().reduce(tokens, given, 5)
    torch.testing.assert_close(found.apply(tokens), tokens[:, :5])
    assert HoliTomInner().reduce(tokens, given, 2).count == 2


def test_layers():
    assert HoliTomInner().layers(28) == (17,)
    assert HoliTomInner().layers(12) == (10,)
    with pytest.raises(ConfigError, match="layer"):
        HoliTomInnerConfig(layer=0)
