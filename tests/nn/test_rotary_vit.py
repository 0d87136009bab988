from __future__ import annotations

import torch
from torch.nn import functional as F

from smalti.nn.rotary_pairs import line_angles
from smalti.nn.rotary_vit import GatedGelu, RotaryAttention, RotaryTransformer


def test_frames_see_what_has_come() -> None:
    attention, x = RotaryAttention(8, 2, qkv_bias=False), torch.randn(2, 6, 8)
    frame = torch.arange(6) // 2
    q, k, v = attention.split(x)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=frame[:, None] >= frame)
    expected = attention.proj(out.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention.turned(x, frames=3), expected)
    assert (attention.turned(x) - expected)[:, :4].abs().max() > 1e-4


def test_every_block_has_its_angles() -> None:
    vit, x = RotaryTransformer(8, 2, 2), torch.randn(1, 5, 8)
    angles = line_angles(5, 4, 100.0)
    plain = vit(x, [None, None])
    for chosen in ([angles, None], [None, angles]):
        assert (vit(x, chosen) - plain).abs().max() > 1e-5


def test_the_gate_goes_through_gelu() -> None:
    mlp, x = GatedGelu(6, 16), torch.randn(3, 6)
    torch.testing.assert_close(mlp(x), mlp.fc3(F.gelu(mlp.fc1(x)) * mlp.fc2(x)))
    assert RotaryTransformer(48, 1, 4).blocks[0].mlp.fc1.out_features == 128
