"""Sharing tokens out: nothing is lost, and its limits are merging and pooling."""

import torch

from smalti.nn.sharing import mixtures, share_out


def test_columns_of_shares_and_rows_of_mixtures_sum_to_one():
    features, weight = torch.randn(2, 9, 5), torch.rand(2, 9) + 0.5
    shares = share_out(features, features[:, :4], temperature=0.2)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 9))
    rows = mixtures(shares, weight)
    torch.testing.assert_close(rows.sum(2), torch.ones(2, 4))
    weighted = shares[0, 1] * weight[0]
    torch.testing.assert_close(rows[0, 1], weighted / weighted.sum())


def test_limits_of_temperature():
    features = torch.randn(1, 12, 8)
    basis = features[:, ::3]
    nearest = torch.nn.functional.cosine_similarity(features[:, :, None], basis[:, None], dim=-1).argmax(-1)
    cold = share_out(features, basis, temperature=1e-4)
    torch.testing.assert_close(cold, torch.nn.functional.one_hot(nearest, 4).float().mT)
    warm = share_out(features, basis, temperature=1e6)
    torch.testing.assert_close(warm, torch.full((1, 4, 12), 0.25))
    torch.testing.assert_close(share_out(features, features, temperature=1e-4), torch.eye(12)[None])


def test_only_the_likest_share_and_ties_stay():
    features = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    shares = share_out(features, features[:, :2], temperature=1.0, most=1)
    torch.testing.assert_close(shares[0], torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]))


def test_gradients_flow_through_the_shares():
    features = torch.randn(1, 6, 4, requires_grad=True)
    mixtures(
        share_out(features, features[:, :2], temperature=0.1), torch.ones(1, 6)
    ).square().sum().backward()
    assert features.grad is not None
    assert features.grad.abs().sum() > 0
