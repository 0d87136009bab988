"""Transport: plans share the mass evenly, padding carries none, equal sets are near."""

from __future__ import annotations

import torch

from smalti.nn.proximal_transport import proximal_plan, transport_distance


def test_a_plan_shares_out_the_mass_of_real_tokens():
    rows = torch.tensor([[True] * 4, [True, True, False, False]])
    columns = torch.tensor([[True] * 6, [False, True, True, True, False, False]])
    cost = torch.rand(2, 4, 6) * (rows[:, :, None] & columns[:, None])
    plan = proximal_plan(cost, rows, columns)
    torch.testing.assert_close(plan.sum(2), rows / rows.sum(1, keepdim=True), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(plan.sum(1), columns / columns.sum(1, keepdim=True), atol=2e-2, rtol=2e-2)
    assert not plan[1, 2:].any()
    assert not plan[1, :, 0].any()


def test_a_permutation_costs_nothing_and_is_found():
    x = torch.eye(5)[None]
    order = torch.tensor([3, 0, 4, 1, 2])
    seen = torch.ones(1, 5, dtype=torch.bool)
    cost = 1 - x @ x[:, order].mT
    plan = proximal_plan(cost, seen, seen)[0]
    assert torch.equal(plan.argmax(0), order)
    assert transport_distance(x, x[:, order], seen, seen) < 1e-3
    assert transport_distance(x, -x, seen, seen) > 0.9


def test_gradients_go_through_the_cost_alone():
    x, y = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 5, 4)
    seen = [torch.ones(2, n, dtype=torch.bool) for n in (3, 5)]
    before = transport_distance(x, y, *seen)
    before.sum().backward()
    assert x.grad.any()
    after = transport_distance(x.detach() - 0.1 * x.grad, y, *seen)
    assert (after < before).all()
