from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.flow_sampling import (
    ProjectedGuidance,
    classifier_free,
    euler,
    logit_normal,
    mode_scaled,
    noised,
)


@pytest.mark.parametrize("steps", [1, 7])
def test_a_straight_flow_is_followed_exactly(steps: int) -> None:
    clean, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(euler(lambda x, share: noise - clean, noise, steps), clean)


def test_the_shares_of_noise_go_from_one_down() -> None:
    seen: list[float] = []
    euler(lambda x, share: seen.append(share) or x * 0, torch.ones(1, 1), 4)
    assert seen == [1.0, 0.75, 0.5, 0.25]
    with pytest.raises(ConfigError, match="at least one step"):
        euler(lambda x, share: x, torch.ones(1, 1), 0)


def test_noise_has_its_share() -> None:
    clean, noise = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    share = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(noised(clean, noise, share)[:, 0, 0], share)


def test_drawn_shares_have_the_right_quantiles() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.distributions.Normal(0, 1).cdf(torch.tensor(1.0))
    for stratified, within in ((False, 0.02), (True, 0.002)):
        share = logit_normal(4000, stratified, generator)
        below = (share < torch.tensor(1.0).sigmoid()).float().mean()
        torch.testing.assert_close(below, wanted, atol=within, rtol=0)
    plain, bent = (mode_scaled(4000, scale, generator) for scale in (0.0, 1.29))
    assert plain.mean() == pytest.approx(0.5, abs=0.02)
    assert 0 <= bent.min() <= bent.max() <= 1
    assert bent.std() < plain.std() - 0.05


def test_scale_one_is_the_conditional_answer() -> None:
    told, free = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    for guide in (classifier_free(1.0), ProjectedGuidance(1.0)):
        torch.testing.assert_close(guide(told, free), told)


def test_a_difference_along_the_conditional_answer_changes_nothing() -> None:
    told = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(ProjectedGuidance(7.5)(told, 0.4 * told), told)
    assert not torch.allclose(ProjectedGuidance(7.5, parallel=1.0)(told, 0.4 * told), told)


def test_the_difference_is_short_and_remembers_the_step_before() -> None:
    told, free = torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)
    told[0, 0], free[0, 1] = 1.0, -10.0
    guide = ProjectedGuidance(2.0, momentum=0.0)
    change = guide(told, free) - told
    assert change.norm() <= 2.5
    assert change[0, 1, 0, 0] == pytest.approx(2.5 * 10 / 101**0.5, rel=1e-5)
    free[0, 1] = -0.1
    guide = ProjectedGuidance(2.0, momentum=-0.5)
    first, second = (guide(told, free) - told for _ in range(2))
    torch.testing.assert_close(second, first / 2)
