from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.clip_blocks import CLIP_BLOCKS, positions_of_grid, side_of_square
from smalti.nn.strict_loading import load_strictly, renamed
from smalti.nn.transformer import Block


def test_blocks_around_torchs_attention_are_read() -> None:
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    torch.nn.init.normal_(attention.in_proj_bias)
    block = Block(8, 2, eps=1e-5)
    theirs = {f"transformer.0.attn.{name}": tensor for name, tensor in attention.state_dict().items()}
    theirs |= {"transformer.0.ln_1.weight": block.norm1.weight, "transformer.0.ln_1.bias": block.norm1.bias}
    theirs |= {"transformer.0.ln_2.weight": block.norm2.weight, "transformer.0.ln_2.bias": block.norm2.bias}
    for ours, name in (("fc1", "c_fc"), ("fc2", "c_proj")):
        for part in ("weight", "bias"):
            theirs[f"transformer.0.mlp.{name}.{part}"] = block.mlp.get_submodule(ours).get_parameter(part)
    found = {name.removeprefix("blocks.0."): t for name, t in renamed(theirs, CLIP_BLOCKS).items()}
    load_strictly(block, found)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(block.attn(x), attention(x, x, x, need_weights=False)[0])


def test_positions_stay_or_are_resampled() -> None:
    table = torch.randn(9, 4)
    assert torch.equal(positions_of_grid(table, (3, 3)), table)
    slope = torch.arange(3.0).repeat_interleave(3)[:, None].expand(-1, 2)
    down = positions_of_grid(slope.contiguous(), (6, 3)).unflatten(0, (6, 3))
    assert (down.diff(dim=0) > 0).all()
    torch.testing.assert_close(down[:, :1].expand(-1, 3, -1), down)
    assert side_of_square(16) == 4
    with pytest.raises(ConfigError, match="8 positions"):
        side_of_square(8)
