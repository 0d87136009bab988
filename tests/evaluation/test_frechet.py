import math

import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from smalti.errors import MediaError
from smalti.evaluation.frechet import frechet


class Colours(torch.nn.Module):
    """A stand-in extractor: what torchmetrics and we both get is the picture's own numbers."""

    num_features = 12

    def forward(self, pictures):
        return pictures.flatten(1).double()


@pytest.mark.filterwarnings("ignore:Metric `FrechetInceptionDistance`:UserWarning")
@pytest.mark.parametrize("count", [8, 300])
def test_agrees_with_torchmetrics(count):
    a, b = torch.rand(count, 3, 2, 2), torch.rand(count + 5, 3, 2, 2) ** 2
    theirs = FrechetInceptionDistance(feature=Colours(), normalize=True, input_img_size=(3, 2, 2))
    theirs.set_dtype(torch.float64)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    ours = frechet(a.flatten(1), b.flatten(1)).distance
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-4, abs=1e-5)


def test_of_gaussians_on_a_line():
    a = torch.tensor([[-1.0], [1.0]]) * math.sqrt(0.5)  # variance 1
    b = 3 * a + 2
    assert frechet(a, b).distance == pytest.approx(2**2 + (3 - 1) ** 2)


def test_equal_sets_are_at_no_distance():
    features = torch.randn(20, 50)
    assert frechet(features, features.flip(0)).distance == pytest.approx(0, abs=1e-9)


def test_grows_with_distance():
    features = torch.randn(200, 5)
    distances = [frechet(features, features + shift).distance for shift in (0.1, 0.5, 2.0)]
    assert distances == sorted(distances)
    assert distances[1] == pytest.approx(5 * 0.25, rel=1e-5)


def test_few_samples_are_noted():
    assert "20 samples in 50 dimensions" in frechet(torch.randn(30, 50), torch.randn(20, 50)).note
    assert frechet(torch.randn(60, 50), torch.randn(51, 50)).note == ""


def test_errors_name_what_is_wrong():
    with pytest.raises(MediaError, match="two samples"):
        frechet(torch.randn(1, 4), torch.randn(5, 4))
    with pytest.raises(MediaError, match="4 and 5 numbers"):
        frechet(torch.randn(3, 4), torch.randn(3, 5))
