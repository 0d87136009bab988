"""Matching of predictions with true boxes, and the losses that follow."""

import pytest
import torch

from smalti.nn.set_matching import Target, Weights, detection_loss, matched

SIZE = torch.tensor([100.0, 100.0])


def test_each_box_finds_its_prediction():
    pytest.importorskip("scipy")
    true = torch.tensor([[10.0, 10, 30, 40], [60, 60, 90, 90]])
    given = torch.cat([torch.tensor([[0.0, 0, 100, 100]]), true.flip(0) + 1])
    rows, columns = matched(torch.zeros(3, 2), given, true, SIZE, Weights())
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {1: 1, 2: 0}


def test_a_perfect_prediction_costs_nothing_and_a_worse_one_more():
    pytest.importorskip("scipy")
    true = torch.tensor([[10.0, 10, 30, 40]])
    target = Target(true, torch.tensor([[1.0, 0]]))
    person = torch.tensor([[[20.0, -20], [-20, 20]]])
    places = torch.stack([torch.cat([true, true + 50])])
    actions = torch.tensor([[[20.0, -20], [0, 0]]])
    losses = detection_loss([person], [places], [actions], [target], SIZE[None])
    assert max(float(v) for v in losses.values()) < 1e-4
    worse = detection_loss([person] * 2, [places + 5] * 2, [actions * 0] * 3, [target], SIZE[None])
    assert float(worse["boxes"]) == pytest.approx(2 * 5 * 4 * 0.05, rel=1e-4)
    assert float(worse["actions"]) == pytest.approx(3 * 12 * 0.6931, rel=1e-3)


def test_pictures_without_people():
    pytest.importorskip("scipy")
    empty = Target(torch.zeros(0, 4), torch.zeros(0, 2))
    person = torch.zeros(1, 3, 2, requires_grad=True)
    losses = detection_loss([person], [torch.rand(1, 3, 4)], [torch.zeros(1, 3, 2)], [empty], SIZE[None])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert float(person.grad.abs().sum()) > 0
