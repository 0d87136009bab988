from __future__ import annotations

import torch
from torch import Tensor

from smalti.training.losses.vgg import Trunk
from smalti.training.sources.taught import Taught, TrunkTeacher


class Alternating:
    def batch(self, step: int, seed: int = 0) -> dict[str, Tensor]:
        name, frames = ("clips", 3) if step % 2 else ("pictures", 1)
        return {name: torch.full((2, 3, frames, 16, 24), 0.1 * (step + seed))}


def test_pictures_come_with_what_the_teacher_says_of_them() -> None:
    taught = Taught(Alternating(), lambda pictures: {"teacher_1": pictures.mean((2, 3))})
    batch = taught.batch(2, 1)
    torch.testing.assert_close(batch["teacher_1"], torch.full((2, 3), 0.3))
    assert torch.equal(batch["pictures"], Alternating().batch(2, 1)["pictures"])
    assert taught.batch(1).keys() == {"clips"}


def test_a_trunk_tells_of_places_and_of_all() -> None:
    found = TrunkTeacher(Trunk())(torch.rand(2, 3, 16, 24))
    assert found["features"].shape == (2, 2 * 3, 512)
    torch.testing.assert_close(found["teacher_1"], found["features"].mean(1))
    assert not found["features"].requires_grad
