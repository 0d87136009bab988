import math

import pytest
import torch

from smalti.evaluation.audit import fidelity


def test_cosine_is_a_mean_over_rows() -> None:
    full = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert fidelity.cosine(full, torch.tensor([[3.0, 0.0], [5.0, 0.0]])) == pytest.approx(0.5)


def test_alignment_does_not_change_with_rotation_and_scale_but_with_content() -> None:
    x = torch.randn(20, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6)).Q
    assert fidelity.cka(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-5)
    assert fidelity.cka(x, torch.randn(20, 6)) < 0.5
    assert math.isnan(fidelity.cka(x, torch.ones(20, 6)))


def test_alignment_of_one_feature_is_the_squared_correlation() -> None:
    x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [3.0], [2.0]])
    assert fidelity.cka(x, y) == pytest.approx(0.25)


def test_the_nearest_other_picture_is_never_the_picture_itself() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert fidelity.nearest_other(x).tolist() == [1, 0, 3, 2]


def test_neighbours_leave_the_picture_itself_out() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert fidelity.neighbour_accuracy(x, torch.tensor([0, 0, 1, 1]), k=1) == 1
    assert fidelity.neighbour_accuracy(x, torch.tensor([0, 1, 0, 1]), k=1) == 0
    assert fidelity.neighbour_accuracy(x, torch.tensor([0, 0, 1, 0]), k=1) == 0.5


def test_a_probe_learns_on_half_of_every_class_and_is_asked_the_other_half() -> None:
    labels = torch.arange(3).repeat_interleave(10)
    x = torch.nn.functional.one_hot(labels, 8).float() + 0.05 * torch.randn(30, 8)
    probe = fidelity.Probe(x, labels)
    assert probe.taught.view(3, 10).sum(1).tolist() == [5, 5, 5]
    assert probe.accuracy(x) == 1
    assert probe.accuracy(x.roll(10, 0)) == 0
    memorised = fidelity.Probe(torch.randn(30, 40), labels)
    assert memorised.accuracy(torch.randn(30, 40)) < 0.8
