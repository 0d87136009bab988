"""Positive random features: nearness to softmax, directions, precision."""

import itertools

import pytest
import torch

from smalti.nn.random_features import linear_attention, orthogonal_features, positive_features


def test_random_features_come_near_to_softmax():
    q, k, v = torch.randn(3, 40, 16).mul(0.2).unbind()
    exact = (q @ k.mT).softmax(-1) @ v
    errors = []
    for count in (64, 1024, 16384):
        trials = []
        for _ in range(4):
            w = orthogonal_features(count, 16)
            trials.append(linear_attention(positive_features(q, w), positive_features(k, w), v) - exact)
        errors.append(torch.stack(trials).square().mean().sqrt().item())
    assert errors[-1] < 0.01
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.5)


def test_directions_are_orthogonal():
    few, many = orthogonal_features(4, 16), orthogonal_features(64, 16)
    torch.testing.assert_close(few @ few.mT, 4 * torch.eye(4))
    torch.testing.assert_close(many.mT @ many, 64 * torch.eye(16))


def test_features_are_computed_in_float32_also_under_autocast():
    x, w = torch.randn(2, 5, 16), orthogonal_features(8, 16)
    exact = positive_features(x, w)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(positive_features(x, w), exact)
        mixed = linear_attention(exact, exact, x)
    assert torch.equal(mixed, linear_attention(exact, exact, x))
    assert linear_attention(exact, exact, x.bfloat16()).dtype == torch.bfloat16
