from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.bert_encoder import BertConfig
from smalti.nn.word_networks import BertWords, UViT


@pytest.mark.parametrize(
    "network",
    [UViT(9, 5, 8, 4, 2, 12), BertWords(BertConfig(9, 8, 2, 2, 12, 5)).eval()],
    ids=["u-vit", "bert"],
)
def test_every_word_sees_all_words_and_its_place(network) -> None:
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    before = network(ids)
    assert before.shape == (1, 5, 8)
    changed = ids.clone()
    changed[0, 4] = 7
    assert ((network(changed) - before).abs().amax(-1) > 1e-6).all()
    assert not torch.allclose(network(ids.flip(1)).flip(1), before)


def test_the_first_block_is_joined_to_the_last() -> None:
    network = UViT(9, 5, 8, 4, 2, 12)
    order: list[str] = []
    for name, block in network.named_modules():
        if (name.count(".") == 1 and "blocks" in name) or name == "mid_block":
            block.register_forward_hook(lambda *_, name=name: order.append(name))
    given: list[torch.Tensor] = []
    network.out_blocks[1].skip_linear.register_forward_pre_hook(lambda _m, x: given.append(x[0][..., 8:]))
    kept: list[torch.Tensor] = []
    network.in_blocks[0].register_forward_hook(lambda *what: kept.append(what[2]))
    network(torch.tensor([[1, 2]]))
    assert order == ["in_blocks.0", "in_blocks.1", "mid_block", "out_blocks.0", "out_blocks.1"]
    assert torch.equal(given[0], kept[0])
    with pytest.raises(ConfigError, match="odd"):
        UViT(9, 5, 8, 3, 2, 12)
