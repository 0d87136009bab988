import pytest
import torch

from smalti.nn import clustering
from smalti.nn.likeness import POWERS, likeness, likeness_above


@pytest.mark.parametrize("metric", ["cosine", "dot", *POWERS])
def test_every_metric_against_the_whole_table(metric, monkeypatch) -> None:
    some, others = torch.randn(2, 5, 3), torch.randn(2, 7, 3)
    if metric in POWERS:
        difference = some[:, :, None] - others[:, None]
        table = -torch.linalg.vector_norm(difference, POWERS[metric], dim=-1)
    elif metric == "cosine":
        table = torch.cosine_similarity(some[:, :, None], others[:, None], dim=-1)
    else:
        table = some @ others.mT
    torch.testing.assert_close(likeness(some, others, metric), table.amax(-1))
    monkeypatch.setattr(clustering, "CHUNK", 10)
    torch.testing.assert_close(likeness(some, others, metric), table.amax(-1))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_likeness_to_those_above_alone(metric) -> None:
    ranked = torch.randn(1, 6, 3)
    ranked[:, 4] = ranked[:, 1]
    above = likeness_above(ranked, metric)
    assert above[0, 0] == -torch.inf
    assert above.argmax() == 4
    torch.testing.assert_close(above[:, 5:], likeness(ranked[:, 5:], ranked[:, :5], metric))
