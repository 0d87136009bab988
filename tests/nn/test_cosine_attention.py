from __future__ import annotations

import torch

from smalti.nn import clustering
from smalti.nn.cosine_attention import CosineAttention, GainNorm, GatedFeed
from smalti.nn.place_bias import ContinuousBias


def test_logits_are_eight_times_the_cosine() -> None:
    layer, x = CosineAttention(8, 2, 4), torch.randn(2, 5, 8)
    q, k, v = layer.split(x)
    for vectors in (q, k):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 2, 5))
    expected = (8 * q @ k.mT).softmax(-1) @ v
    torch.testing.assert_close(layer.mix(x), layer.out(expected.transpose(1, 2).flatten(2)))


def test_only_queries_are_normed() -> None:
    layer, x = CosineAttention(8, 2, 4), torch.randn(1, 5, 8)
    q, k, v = layer.split(x)
    shifted_q, shifted_k, shifted_v = layer.split(3 * x + 1)
    torch.testing.assert_close(shifted_q, q, atol=1e-4, rtol=1e-4)
    assert (shifted_k - k).abs().max() > 0.01
    assert (shifted_v - v).abs().max() > 0.1


def test_rows_at_a_time_give_what_all_give(monkeypatch) -> None:
    layer, x = CosineAttention(8, 2, 4), torch.randn(2, 12, 8)
    bias = ContinuousBias(8, 2)((3, 4))
    mask = torch.arange(12)[None] < torch.tensor([[12], [7]])
    whole = layer.mix(x, bias=bias, mask=mask)
    monkeypatch.setattr(clustering, "CHUNK", 2 * 12 * 5)
    torch.testing.assert_close(layer.mix(x, bias=bias, mask=mask), whole)
    torch.testing.assert_close(layer.mix(x[1:, :7], bias=lambda part: bias(part)[..., :7])[0], whole[1, :7])


def test_null_keys_are_what_is_left_of_a_text_without_words() -> None:
    layer, x = CosineAttention(8, 2, 4, source=6, nulls=2), torch.randn(1, 3, 8)
    none = torch.zeros(1, 5, dtype=torch.bool)
    first, second = (layer.mix(x, torch.randn(1, 5, 6), mask=none) for _ in range(2))
    torch.testing.assert_close(first, second)
    assert layer.null_kv is not None
    nulls = layer.null_kv.unflatten(1, (2, 2))  # key and value in turn
    q = layer.split(x, torch.randn(1, 5, 6))[0]
    keys = torch.nn.functional.normalize(nulls[:, :, 0], dim=-1)
    out = (8 * q @ keys.mT).softmax(-1) @ nulls[:, :, 1]
    torch.testing.assert_close(first, layer.out(out.transpose(1, 2).flatten(2)))


def test_norm_and_gate() -> None:
    x = torch.randn(4, 6)
    torch.testing.assert_close(GainNorm(6)(x), torch.nn.functional.layer_norm(x, (6,)))
    feed = GatedFeed(6)
    assert feed.into.weight.shape == (2 * 16, 6)
    value, gate = feed.into(feed.norm(x)).chunk(2, -1)
    torch.testing.assert_close(feed(x), feed.out(value * torch.nn.functional.gelu(gate)))
