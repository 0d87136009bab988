"""Spherical k-means against its definition."""

import torch
from torch.nn import functional as F

from smalti.nn import spherical
from smalti.nn.clustering import take


def clusters(groups=6, members=20, dim=16, noise=0.05, seed=0):
    random = torch.Generator().manual_seed(seed)
    kinds = F.normalize(torch.randn(groups, dim, generator=random), dim=-1)
    label = torch.arange(groups).repeat(members)
    tokens = kinds[label] + noise * torch.randn(len(label), dim, generator=random)
    return F.normalize(tokens, dim=-1)[None], label[None]


def test_assignment_is_by_cosine_to_the_centres():
    random = torch.Generator().manual_seed(0)
    tokens, start = torch.randn(2, 50, 5, generator=random), torch.randn(2, 4, 5, generator=random)
    group, centres = spherical.spherical_k_means(tokens, start, iterations=3, tolerance=0.0)
    for sample in range(2):
        expected = start[sample]
        for _ in range(3):
            cosine = torch.cosine_similarity(tokens[sample][:, None], expected[None], dim=-1)
            label = cosine.argmax(1)
            expected = torch.stack([tokens[sample][label == k].mean(0) for k in range(4)])
        assert torch.equal(group[sample], label)
        torch.testing.assert_close(centres[sample], expected)


def test_a_centre_without_tokens_stays():
    tokens = F.normalize(torch.tensor([[[1.0, 0.1], [1.0, -0.1]]]), dim=-1)
    start = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    group, centres = spherical.spherical_k_means(tokens, start)
    assert group.tolist() == [[0, 0]]
    assert centres[0, 1].tolist() == [-1.0, 0.0]
    assert sorted(spherical.inhabited(tokens, group, 2)[0].tolist()) == [0, 1]


def test_starts_are_nested_spread_and_alone():
    tokens, label = clusters(noise=0.005)
    many = spherical.plus_plus(tokens, 6, seed=7)
    assert torch.equal(spherical.plus_plus(tokens, 3, seed=7), many[:, :3])
    assert sorted(label.gather(1, many)[0].tolist()) == list(range(6))
    pair = torch.cat([tokens.flip(1), tokens])
    assert torch.equal(spherical.plus_plus(pair, 6, seed=7)[1:], many)
    assert not torch.equal(spherical.plus_plus(tokens, 6, seed=5), many)


def test_order_of_first_members():
    group = torch.tensor([[3, 1, 3, 0, 1]])
    assert spherical.in_order(group, 4).tolist() == [[0, 1, 0, 2, 1]]


def test_distortion_and_silhouette():
    tokens, label = clusters()
    centres = torch.stack([tokens[0][label[0] == k].mean(0) for k in range(6)])
    expected = (tokens[0] - centres[label[0]]).square().sum()
    torch.testing.assert_close(spherical.distortion(tokens, label, 6)[0], expected, atol=1e-4, rtol=1e-4)
    wrong = label.roll(1, 1)
    assert spherical.silhouette(tokens, label, 6) > 0.8 > spherical.silhouette(tokens, wrong % 3, 3)
    start = take(tokens, spherical.plus_plus(tokens, 6))
    assert torch.equal(
        spherical.in_order(spherical.spherical_k_means(tokens, start)[0], 6), spherical.in_order(label, 6)
    )
