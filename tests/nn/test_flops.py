"""Arithmetic by formula and as counted, against hand counts and what papers report."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from smalti.nn.flops import attention_flops, block_flops, count_flops, mlp_flops
from smalti.nn.transformer import Block

SMALL, LARGE = 384, 1024  # channels of ViT-S and ViT-L
PATCHES = 196 * 3 * 16 * 16 * SMALL + SMALL * 1000  # embedding of 224×224 pixels, and the head


def network(into: list[int], after: list[int], dim: int = SMALL) -> int:
    return sum(block_flops(n, dim, tokens_mlp=m) for n, m in zip(into, after, strict=True))


def test_a_block_by_hand():
    n, m, d = 7, 5, 6
    projections, products, mlp = 4 * n * d * d, 2 * n * n * d, 2 * m * d * (3 * d)
    assert block_flops(n, d, mlp_ratio=3, tokens_mlp=m) == projections + products + mlp
    assert block_flops(n, d) == attention_flops(n, d) + mlp_flops(n, d)
    assert attention_flops(n, d, keys=m) == 2 * n * d * d + 2 * m * d * d + 2 * n * m * d


def test_deit_small():
    whole = network([197] * 12, [197] * 12) + PATCHES
    assert whole == pytest.approx(4.6e9, rel=0.02)


def test_tome_removes_thirteen_in_every_block():
    counts = [197]
    for _ in range(12):
        counts.append(counts[-1] - min(13, (counts[-1] - 1) // 2))
    assert network(counts[:-1], counts[1:]) + PATCHES == pytest.approx(2.7e9, rel=0.02)


def test_stvit_runs_on_sixteen_semantic_tokens():
    base = network([196] * 4, [196] * 4)
    semantic = 2 * (attention_flops(16, SMALL, keys=16 + 196) + mlp_flops(16, SMALL))
    last = network([16] * 6, [16] * 6)
    assert base + semantic + last + PATCHES == pytest.approx(1.91e9, rel=0.02)
    assert (base + semantic + last + PATCHES) / (network([197] * 12, [197] * 12) + PATCHES) == pytest.approx(
        1.91 / 4.60, rel=0.02
    )


def test_zero_tprune_by_its_default_schedule():
    counts = [197, 187, 187, 158, 158, 158, 116, 116, 116, 71, 71, 61]  # it removes after whole blocks
    assert 3.06e9 * 0.98 < network(counts, counts) + PATCHES < 3.08e9 * 1.02


def test_clusters_after_ten_of_twenty_four_blocks():
    counts = [1600] * 10 + [784] * 14
    share = network(counts, counts, LARGE) / network([1600] * 24, [1600] * 24, LARGE)
    assert share == pytest.approx(0.673, rel=0.02)


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_counting_a_block_gives_the_formula(backend):
    block, x = Block(24, 3, mlp_ratio=2.0), torch.randn(2, 11, 24)
    with sdpa_kernel(backend), torch.no_grad():
        assert count_flops(block, x) == 2 * block_flops(11, 24, mlp_ratio=2)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_counts_whichever_kernel_runs(masked):
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    bias = (
        torch.zeros(5, 7, requires_grad=True) if masked else None
    )  # a bias that learns rules out the fused one
    assert count_flops(F.scaled_dot_product_attention, q, k, v, attn_mask=bias) == 2 * 3 * 5 * 7 * (8 + 8)


def test_gradients_of_attention_count():
    q = torch.randn(2, 3, 5, 8, requires_grad=True)
    k, v = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)

    def run():
        F.scaled_dot_product_attention(q, k, v).sum().backward()

    assert count_flops(run) == 2 * 3 * 5 * 7 * 8 * (2 + 5)  # two products there, five back


@pytest.mark.parametrize("rows", [9, 40])  # torch computes many by a matrix product, few one by one
def test_distances_count(rows):
    assert (
        count_flops(torch.cdist, torch.randn(2, rows, 6), torch.randn(2, rows + 3, 6))
        == 2 * rows * (rows + 3) * 6
    )


def test_arguments_by_name_and_plain_products():
    layer = torch.nn.Conv2d(3, 8, 4, 4)
    assert count_flops(layer, torch.randn(1, 3, 16, 16)) == 16 * 3 * 16 * 8
    assert count_flops(F.linear, torch.randn(5, 4), weight=torch.randn(6, 4)) == 5 * 4 * 6
