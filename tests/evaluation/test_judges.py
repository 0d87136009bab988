"""The judges' weights come out of packages that lie in the cache; nothing is downloaded here."""

import pytest
import torch
import torch.nn.functional as F

from smalti.evaluation.judges import (
    EFFICIENTNET,
    Judges,
    agreement,
    perceptual,
    tiles,
)
from smalti.training.corpora.fetch import cache_home
from smalti.training.losses.vgg import CHANNELS, VGG16, Trunk, _fold

from .makers import scene


@pytest.fixture(scope="module")
def judges():
    for published in (VGG16, EFFICIENTNET):
        if not (cache_home() / "packages" / published.package.file).exists():
            pytest.skip(f"{published.package.file} is not in {cache_home() / 'packages'}")
    return Judges()


def blurred(frames, radius):
    side = 2 * radius + 1
    return F.avg_pool2d(frames, side, stride=1, padding=radius, count_include_pad=False)


def test_more_blur_and_more_noise_are_further_away(judges):
    frames = scene(256, 256)[:, :, 0]
    look = judges.look(frames)
    assert perceptual(look, judges.look(frames)).item() == 0
    grain = torch.randn(frames.shape)
    for change in (
        [blurred(frames, radius) for radius in (1, 2, 5)],
        [(frames + amount * grain).clamp(0, 1) for amount in (0.02, 0.1, 0.3)],
    ):
        distances = [perceptual(look, judges.look(one)).item() for one in change]
        assert distances == sorted(distances)
        assert 0.1 < distances[0] < distances[-1] < 8


def test_the_classifier_knows_real_things(judges, evaluation_pictures):
    import numpy as np
    from PIL import Image
    from timm.data import ImageNetInfo

    for name, thing in (("kodim20", "warplane"), ("kodim23", "macaw")):
        picture = np.array(Image.open(evaluation_pictures / "kodak" / f"{name}.png"))
        look = judges.look(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
        assert thing in ImageNetInfo().index_to_description(int(look.classes[0]))


def test_shapes_of_a_look(judges):
    look = judges.look(torch.cat([scene(300, 460, seed=seed)[:, :, 0] for seed in range(2)]))
    assert [tuple(m.shape) for m in look.maps] == [
        (2, 64, 256, 256),
        (2, 128, 128, 128),
        (2, 256, 64, 64),
        (2, 512, 32, 32),
    ]
    assert look.features.shape == (4, 1280)
    assert agreement(look, look).tolist() == [1.0, 1.0]
    for m in look.maps:
        lengths = m.norm(dim=1)
        assert ((lengths - 1).abs() < 1e-4).logical_or(lengths == 0).all()


def test_small_pictures_are_judged_too(judges):
    look = judges.look(scene(20, 33)[:, :, 0])
    assert look.features.shape == (1, 1280)
    assert perceptual(look, look).item() == 0


def test_tiles_lie_side_by_side_around_the_centre():
    ramp = torch.arange(224 * 2 + 2.0).expand(1, 3, 226, -1) / 450
    both = tiles(ramp)
    assert both.shape == (2, 3, 224, 224)
    assert torch.equal(both[0, 0, 0], ramp[0, 0, 0, 1:225])
    assert torch.equal(both[1, 0, 0], ramp[0, 0, 0, 225:449])


def test_tiles_of_small_frames_are_enlarged():
    assert tiles(torch.rand(1, 3, 112, 300)).shape == (2, 3, 224, 224)


def test_folding_keeps_what_the_network_computes():
    layers, weights, index, width = [], {}, 0, 3
    for channels in (*CHANNELS, 512, 512):
        if channels == "pool":
            layers.append(torch.nn.MaxPool2d(2))
            index += 1
            continue
        normalise = torch.nn.BatchNorm2d(channels)
        normalise.weight.data.uniform_(0.5, 1.5)
        normalise.bias.data.normal_(0, 0.1)
        normalise.running_mean.normal_(0, 0.1)
        normalise.running_var.uniform_(0.5, 2)
        convolution = torch.nn.Conv2d(width, channels, 3, padding=1)
        for offset, layer in enumerate((convolution, normalise)):
            for key, value in layer.state_dict().items():
                weights[f"module.basenet.slice1.{index + offset}.{key}"] = value
        layers += [convolution, normalise, torch.nn.ReLU()]
        index, width = index + 3, channels
    trunk = Trunk()
    trunk.load_state_dict(_fold(weights))
    plain = torch.nn.Sequential(*layers[:33]).eval()
    picture = scene(32, 32)[:, :, 0]
    with torch.inference_mode():
        expected = F.normalize(plain((picture - trunk.mean) / trunk.deviation), dim=1, eps=1e-10)
        torch.testing.assert_close(trunk(picture)[-1], expected, atol=1e-4, rtol=1e-4)
