"""TokDense and the cost formulas against the paper's own figures and hand counts."""

import pytest
import torch

from smalti.errors import ConfigError
from smalti.evaluation.tokdense import module_flops, prefill_macs, tok_dense, token_density


@pytest.mark.parametrize(
    ("accuracy", "tokens", "printed"),
    [(57.46, 32, 1.796), (57.72, 13.08, 4.413), (57.2, 3136, 0.018)],
)
def test_the_papers_figures(accuracy, tokens, printed):
    assert round(token_density(accuracy, tokens), 3) == printed


def test_over_questions():
    pytest.importorskip("torchmetrics")
    metric = tok_dense()
    metric.update(torch.tensor([True, False]), torch.tensor([10, 20]))
    metric.update(torch.tensor([True, True]), torch.tensor([12, 6]))
    accuracy, tokens, density = metric.compute()
    assert (accuracy, tokens) == (75.0, 12.0)
    assert density == 75 / 12


def test_no_tokens_are_refused():
    with pytest.raises(ConfigError):
        token_density(50.0, 0)


def test_k_means_grows_with_tokens_codes_and_iterations():
    base = module_flops(1000, 10, 8, iterations=5)
    assert base == 5 * (2 * 1000 * 10 * 8 + 1000 * 8)
    assert module_flops(2000, 10, 8, iterations=5) == 2 * base
    for attention in ("paper", "decoder"):
        assert module_flops(1000, 10, 8, iterations=5, frames=4, attention=attention) > base


def test_prefill():
    assert prefill_macs([3], 4, 8) == 4 * 3 * 16 + 2 * 9 * 4 + 3 * 3 * 4 * 8
    assert prefill_macs([3], 4, 8, matrices=2) == 4 * 3 * 16 + 2 * 9 * 4 + 2 * 3 * 4 * 8
    attention = [prefill_macs([n], 4, 0) - 4 * n * 16 for n in (100, 50)]
    assert attention[0] == 4 * attention[1]
    # HoliTom on a 7B model: a tenth of 6,272 tokens, half of them from layer 18 of 28 on
    whole = prefill_macs([6272] * 28, 3584, 18944)
    assert prefill_macs([627] * 18 + [314] * 10, 3584, 18944) / whole < 0.09
