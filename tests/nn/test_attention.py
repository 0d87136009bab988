"""Attention that tokens receive is what the whole softmax says."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn import clustering
from smalti.nn.attention import attention_map, received

ROWS = {"class": slice(0, 1), "last": slice(-1, None), "all": slice(None)}
BIASES = {
    "none": None,
    "of keys": (2, 1, 1, 9),
    "of heads and keys": (2, 3, 1, 9),
    "of queries and keys": (2, 1, 9, 9),
    "of all": (2, 3, 9, 9),
}


@pytest.mark.parametrize("queries", ROWS)
@pytest.mark.parametrize("shape", BIASES.values(), ids=BIASES.keys())
@pytest.mark.parametrize("chunk", [2**22, 60])
def test_received_attention_is_a_mean_of_the_whole_map(queries, shape, chunk, monkeypatch) -> None:
    monkeypatch.setattr(clustering, "CHUNK", chunk)
    q, k = torch.randn(2, 2, 3, 9, 4)
    bias = None if shape is None else torch.randn(shape)
    logits = torch.einsum("bhmc,bhnc->bhmn", q, k) * 0.5
    whole = (logits if bias is None else logits + bias).softmax(-1)
    torch.testing.assert_close(attention_map(q, k, 0.5, bias), whole)
    found = received(q, k, 0.5, bias, queries)
    torch.testing.assert_close(found, whole[:, :, ROWS[queries]].mean((1, 2)))
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_other_queries_than_keys() -> None:
    q, k = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 7, 4)
    for queries, rows in ROWS.items():
        expected = attention_map(q, k, 1.0)[:, :, rows].mean((1, 2))
        torch.testing.assert_close(received(q, k, 1.0, queries=queries), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(dtype) -> None:
    q, k = torch.randn(2, 1, 2, 9, 4).to(dtype)
    for queries in ROWS:
        found = received(q, k, 0.5, queries=queries)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, received(q.float(), k.float(), 0.5, queries=queries))


def test_hidden_keys_receive_nothing() -> None:
    q, k = torch.randn(2, 1, 2, 9, 4)
    bias = torch.zeros(1, 1, 1, 9).index_fill(3, torch.tensor([4]), -torch.inf)
    assert received(q, k, 0.5, bias, "all")[0, 4] == 0


def test_chunks_are_no_larger_than_asked(monkeypatch) -> None:
    monkeypatch.setattr(clustering, "CHUNK", 60)
    sizes, inner = [], attention_map

    def watched(*given):
        sizes.append(inner(*given).numel())
        return inner(*given)

    monkeypatch.setattr("smalti.nn.attention.attention_map", watched)
    q, k = torch.randn(2, 1, 2, 9, 4)
    received(q, k, 0.5, queries="all")
    assert len(sizes) > 1
    assert max(sizes) <= 60


def test_unknown_queries_are_refused() -> None:
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ConfigError, match="class"):
        received(q, q, 1.0, queries="clas")
