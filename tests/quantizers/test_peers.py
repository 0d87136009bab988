"""Equal to an independent library where the method is the same."""

from __future__ import annotations

import pytest
import torch

from smalti.quantizers import BSQ, FSQ, LFQ, SimVQ, VectorQuantizer

peer = pytest.importorskip("vector_quantize_pytorch", reason="pip install vector-quantize-pytorch==1.32.0")


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("rotation", [False, True])
def test_vq_with_running_means(normalize, rotation) -> None:
    other = peer.VectorQuantize(
        8, 48, decay=0.9, use_cosine_sim=normalize, rotation_trick=rotation, commitment_weight=0.25
    ).train()
    mine = VectorQuantizer(
        codebook_size=48, dim=8, decay=0.9, normalize=normalize,
        gradient="rotation" if rotation else "straight-through",
    ).train()  # fmt: skip
    mine.codebook.copy_(other._codebook.embed[0])
    mine.sums.copy_(other._codebook.embed_avg[0])
    for _ in range(4):
        z = torch.randn(2, 150, 8)
        first, second = z.clone().requires_grad_(), z.clone().requires_grad_()
        out, (values, ids, loss) = mine(first), other(second)
        weight = torch.randn_like(values)
        ((out.values * weight).sum() + out.loss).backward()
        ((values * weight).sum() + loss.sum()).backward()
        assert torch.equal(out.ids[..., 0], ids)
        torch.testing.assert_close(out.values, values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(out.loss, loss.sum())
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(mine.codebook, other._codebook.embed[0])
        torch.testing.assert_close(mine.counts, other._codebook.cluster_size[0])


def test_simvq() -> None:
    other = peer.SimVQ(8, 48)
    mine = SimVQ(codebook_size=48, dim=8)
    mine.frozen.copy_(other.frozen_codebook)
    mine.transform.load_state_dict(other.code_transform.state_dict())
    z = torch.randn(2, 60, 8)
    first, second = z.clone().requires_grad_(), z.clone().requires_grad_()
    out, (values, ids, loss) = mine(first), other(second)
    weight = torch.randn_like(values)
    ((out.values * weight).sum() + out.loss).backward()
    ((values * weight).sum() + loss).backward()
    assert torch.equal(out.ids[..., 0], ids)
    torch.testing.assert_close(out.loss, loss)
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(mine.lookup(out.ids), other.indices_to_codes(ids))


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 4, 7)])
def test_fsq(levels) -> None:
    other, mine = peer.FSQ(list(levels)), FSQ(levels=levels, margin=-1e-3)
    z = 2 * torch.randn(3, 400, len(levels))
    first, second = z.clone().requires_grad_(), z.clone().requires_grad_()
    out, (values, ids) = mine(first), other(second)
    weight = torch.randn_like(values)
    (out.values * weight).sum().backward()
    (values * weight).sum().backward()
    assert torch.equal(out.ids[..., 0], ids.long())
    torch.testing.assert_close(out.values, values)
    torch.testing.assert_close(first.grad, second.grad)


@pytest.mark.parametrize("spherical", [False, True])
def test_binary_codes_and_their_entropies(spherical) -> None:
    other = peer.LFQ(
        codebook_size=256, dim=8, entropy_loss_weight=0.1, spherical=spherical, commitment_loss_weight=0.25
    )
    mine = (BSQ if spherical else LFQ)(bits=8, temperature=0.01, group_bits=8)
    z = 0.01 * torch.randn(1, 300, 8)
    first, second = z.clone().requires_grad_(), z.clone().requires_grad_()
    out, (values, ids, loss) = mine(first), other(second)
    out.loss.backward()
    loss.backward()
    reversed_bits = sum(((ids >> bit) & 1) << (7 - bit) for bit in range(8))
    assert torch.equal(out.ids[..., 0], reversed_bits)
    torch.testing.assert_close(out.values, values)
    torch.testing.assert_close(out.loss, loss, rtol=1e-3, atol=1e-4)
    assert torch.cosine_similarity(first.grad.flatten(), second.grad.flatten(), dim=0) > 0.999
