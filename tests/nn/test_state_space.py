"""State spaces: both forms agree, the kernel is what its definition says, nothing looks ahead."""

from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn import state_space
from smalti.nn.state_space import (
    DiagonalKernel,
    LowRankKernel,
    StateSpaceLayer,
    causal_convolution,
    hippo_legs,
)


def kernels(dim=3, state=8, length=20):
    return [LowRankKernel(dim, state, length), DiagonalKernel(dim, state)]


def impulse(recurrence, steps):
    state, given = recurrence.start(1), []
    for number in range(steps):
        u = torch.full((1, len(recurrence.decay)), float(number == 0), dtype=recurrence.decay.real.dtype)
        y, state = recurrence.step(u, state)
        given.append(y[0])
    return torch.stack(given, -1).float()


def test_hippo_is_normal_plus_low_rank():
    w, p, b = hippo_legs(8)
    number = torch.arange(8.0, dtype=torch.float64)
    root = (2 * number + 1).sqrt()
    matrix = -(root[:, None] * root).tril(-1) - torch.diag(number + 1)
    whole = [torch.cat([part, part.conj()]) for part in (w, p, b)]
    ours = torch.diag(whole[0]) - whole[1][:, None] * whole[1].conj()
    wanted = torch.linalg.eigvals(matrix)
    characteristic = torch.linalg.det(ours - wanted[:, None, None] * torch.eye(8))
    torch.testing.assert_close(torch.linalg.eigvals(ours).sum().real, matrix.trace())
    assert characteristic.abs().max() < 1e-4 * torch.linalg.det(ours).abs()
    for power in range(4):  # b and p keep their place against A: bᵀ Aᵏ b is the same in both bases
        given = whole[2].conj() @ torch.linalg.matrix_power(ours, power) @ whole[2]
        torch.testing.assert_close(given.real, root @ torch.linalg.matrix_power(matrix, power) @ root)


def test_the_low_rank_kernel_is_c_a_to_the_l_b():
    kernel = LowRankKernel(3, 8, 20)
    w, b, c = (torch.view_as_complex(x.detach().double()) for x in (kernel.w, kernel.B, kernel.C))
    whole = lambda x: torch.cat([x, x.conj()], -1)  # noqa: E731
    dt = kernel.log_dt.detach().double().exp()
    for channel in range(3):
        low, high = whole(b[channel, 1]), whole(c[channel, 1])
        matrix = torch.diag(whole(w)) - low[:, None] * high.conj()
        eye = torch.eye(8, dtype=torch.complex128)
        inverse = torch.linalg.inv(eye - dt[channel] / 2 * matrix)
        step, drive = inverse @ (eye + dt[channel] / 2 * matrix), dt[channel] * inverse @ whole(b[channel, 0])
        back = torch.linalg.inv(eye - torch.linalg.matrix_power(step, 20))
        wanted = torch.stack(
            [
                (whole(c[channel, 0]).conj() @ back @ torch.linalg.matrix_power(step, i) @ drive).real
                for i in range(20)
            ]
        )
        torch.testing.assert_close(kernel(20)[channel].double(), wanted, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(kernel.recurrence().matrix()[channel], step, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("length", [1, 13, 20, 33, 64])
def test_kernel_and_recurrence_agree(number, length):
    kernel = kernels()[number]
    torch.testing.assert_close(kernel(length), impulse(kernel.recurrence(), length), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("number", [0, 1])
def test_parts_of_the_table_change_nothing(number, monkeypatch):
    kernel = kernels(dim=5)[number]
    whole = kernel(20)
    whole.square().sum().backward()
    wanted = {name: p.grad.clone() for name, p in kernel.named_parameters()}
    kernel.zero_grad()
    monkeypatch.setattr(state_space, "CHUNK", 100)
    parts = kernel(20)
    torch.testing.assert_close(parts, whole)
    with torch.no_grad():
        torch.testing.assert_close(kernel(20), whole)
    parts.square().sum().backward()
    for name, parameter in kernel.named_parameters():
        assert parameter.grad.any(), name
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 7, 12, 13])
def test_the_convolution_is_causal_and_does_not_come_around(length):
    u, kernel = torch.randn(2, length, 3), torch.randn(3, length)
    wanted = torch.zeros_like(u)
    for t in range(length):
        for s in range(t + 1):
            wanted[:, t] += kernel[:, s] * u[:, t - s]
    torch.testing.assert_close(causal_convolution(u, kernel), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["nplr", "diagonal"])
def test_a_layer_runs_whole_or_step_by_step(kernel):
    layer, x = StateSpaceLayer(4, 8, 16, kernel).eval(), torch.randn(2, 16, 4)
    with torch.no_grad():
        recurrence = layer.kernel.recurrence()
        state, given = recurrence.start(2), []
        for token in x.unbind(1):
            y, state = layer.step(recurrence, token, state)
            given.append(y)
        torch.testing.assert_close(torch.stack(given, 1), layer(x), atol=1e-4, rtol=1e-4)
        changed = torch.cat([x[:, :9], x[:, 9:] + 1], 1)
        torch.testing.assert_close(layer(changed)[:, :9], layer(x)[:, :9], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(layer(changed)[:, 9:], layer(x)[:, 9:], atol=1e-2)


def test_state_spaces_stay_in_float32():
    layer, x = StateSpaceLayer(4, 8, 16).eval(), torch.randn(2, 16, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer.mix(x), layer.float().mix(x))
    with torch.no_grad():
        exact = layer.mix(x)
        half = layer.bfloat16().mix(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.1)


def test_an_odd_state_is_refused():
    with pytest.raises(ConfigError, match="conjugate pairs"):
        StateSpaceLayer(4, 7)
