"""BERT's blocks: memory, masks, attention received, names of checkpoints; against torch's own layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from smalti.errors import ConfigError, FormatError
from smalti.nn.bert_encoder import (
    BertConfig,
    BertEmbedding,
    BertEncoder,
    MaskedWordHead,
    bert_config,
    rename_bert,
)

TINY = BertConfig(vocabulary=20, dim=8, depth=2, heads=2, hidden=16, positions=10)


def encoder() -> BertEncoder:
    return BertEncoder(TINY).eval()


def causal(length: int) -> torch.Tensor:
    return torch.ones(1, 1, length, length).tril().bool()


@torch.no_grad()
def test_a_block_is_torchs_post_norm_layer() -> None:
    ours = encoder().blocks[0]
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", 1e-12, batch_first=True)
    theirs.self_attn.in_proj_weight.copy_(ours.attn.qkv.weight)
    theirs.self_attn.in_proj_bias.copy_(ours.attn.qkv.bias)
    pairs = [
        (theirs.self_attn.out_proj, ours.attn.proj),
        (theirs.linear1, ours.mlp.fc1),
        (theirs.linear2, ours.mlp.fc2),
    ]
    for a, b in pairs:
        a.load_state_dict(b.state_dict())
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours.step(x)[0], theirs(x))


@torch.no_grad()
def test_word_after_word_gives_what_all_at_once_gives() -> None:
    model, x = encoder(), torch.randn(2, 6, 8)
    whole = model(x, causal(6))
    memory, parts = None, []
    for place in range(6):
        part, memory = model.remember(x[:, place : place + 1], None, memory)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert memory is not None
    assert memory[0].keys.shape == (2, 2, 6, 4)


@torch.no_grad()
def test_a_bias_of_numbers_and_one_of_truths_mean_the_same() -> None:
    model, x = encoder(), torch.randn(2, 6, 8)
    added = torch.zeros(1, 1, 6, 6).masked_fill(~causal(6), -10_000.0)
    torch.testing.assert_close(model(x, added), model(x, causal(6)))
    torch.testing.assert_close(model.attention_received(x, added), model.attention_received(x, causal(6)))


@torch.no_grad()
def test_attention_received_sums_to_queries_times_blocks() -> None:
    model, x = encoder(), torch.randn(3, 6, 8)
    total = model.attention_received(x)
    torch.testing.assert_close(total.sum(1), torch.full((3,), 12.0))
    seen = model.attention_received(x, torch.tensor([True] * 4 + [False] * 2)[None, None, None])
    assert not seen[:, 4:].any()
    q, k, _ = model.blocks[0].attn.split(x)
    by_hand = (q @ k.mT / 2).softmax(-1).mean(1).sum(1)
    one = BertEncoder(BertConfig(20, 8, 1, 2, 16, 10)).eval()
    one.blocks[0].load_state_dict(model.blocks[0].state_dict())
    torch.testing.assert_close(one.attention_received(x), by_hand)


@torch.no_grad()
def test_a_word_is_embedded_by_where_it_stands() -> None:
    model = BertEmbedding(TINY).eval()
    ids = torch.tensor([[3, 7, 3]])
    whole = model(ids)
    torch.testing.assert_close(model(ids[:, 1:], start=1), whole[:, 1:])
    assert not torch.allclose(whole[:, 0], whole[:, 2])


def test_texts_that_do_not_fit_are_refused() -> None:
    model = BertEmbedding(TINY)
    with pytest.raises(ConfigError, match="11 words"):
        model(torch.zeros(1, 11, dtype=torch.long))
    for bad in (20, -1):
        with pytest.raises(FormatError, match="outside"):
            model(torch.tensor([[bad]]))
    with pytest.raises(ConfigError, match="heads"):
        BertConfig(dim=10, heads=3)


def test_a_tied_head_shares_the_embedding() -> None:
    words = BertEmbedding(TINY)
    head = MaskedWordHead(TINY, words.word)
    head(torch.randn(2, 8)).sum().backward()
    assert words.word.weight.grad is not None
    assert MaskedWordHead(TINY).decoder.weight is not words.word.weight


def test_bert_base_has_its_parameters() -> None:
    with torch.device("meta"):
        parts = (BertEmbedding(BertConfig()), BertEncoder(BertConfig()))
    count = sum(p.numel() for part in parts for p in part.parameters())
    assert count == 109_482_240 - (768 * 768 + 768)  # without the pooler


def test_names_of_a_checkpoint() -> None:
    model = nn.ModuleDict(
        {"words": BertEmbedding(TINY), "encoder": encoder(), "masked_words": MaskedWordHead(TINY)}
    )
    official = {"embeddings.position_ids": torch.arange(10), "other": torch.zeros(1)}
    back = (
        ("masked_words.decoder.bias", "predictions.bias"),
        ("masked_words.decoder.", "predictions.decoder."),
        ("masked_words.norm.", "predictions.transform.LayerNorm."),
        ("masked_words.dense.", "predictions.transform.dense."),
        ("words.word.", "embeddings.word_embeddings."),
        ("words.position.", "embeddings.position_embeddings."),
        ("words.kind.", "embeddings.token_type_embeddings."),
        ("words.norm.", "embeddings.LayerNorm."),
        ("encoder.blocks.", "encoder.layer."),
        (".attn.proj.", ".attention.output.dense."),
        (".norm1.", ".attention.output.LayerNorm."),
        (".norm2.", ".output.LayerNorm."),
        (".mlp.fc1.", ".intermediate.dense."),
        (".mlp.fc2.", ".output.dense."),
    )
    for name, tensor in model.state_dict().items():
        for ours, theirs in back:
            name = name.replace(ours, theirs)
        if ".attn.qkv." in name:
            for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                official[name.replace(".attn.qkv.", f".attention.self.{part}.")] = piece
        else:
            official[name] = tensor
    renamed = rename_bert(official)
    assert renamed.keys() == model.state_dict().keys() | {"other"}
    assert all(torch.equal(renamed[name], tensor) for name, tensor in model.state_dict().items())
    assert bert_config(renamed, heads=2) == TINY
    del official["encoder.layer.1.attention.self.key.weight"]
    with pytest.raises(ConfigError, match="not whole"):
        rename_bert(official)
    with pytest.raises(ConfigError, match="no BERT"):
        bert_config({})
