"""Pictures with what frozen networks say of them, for objectives that align latents with features.

```
source.batch ──► pictures ──► teacher (no gradient) ──► batch | {"features": [b m f], "teacher_1": [b f], …}
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smalti.training.losses.vgg import VGG16, Trunk
from smalti.training.sources.base import Source, source
from smalti.training.sources.crops import CropConfig, Crops

Teacher = Callable[[Tensor], Mapping[str, Tensor]]


class Taught:
    """Batches of a source, and what a teacher says of their pictures.

    Args:
        data: the pixels.
        teacher: pictures [b 3 h w] in [0, 1] → named features: `features [b m f]` for `flextok`,
            `teacher_1 [b f]` for `fqgan`, `teacher [b d]` and `texts [k d]` for `atoken`.
    """

    def __init__(self, data: Source, teacher: Teacher) -> None:
        self.data, self.teacher = data, teacher

    @torch.no_grad()
    def batch(self, step: int, seed: int = 0) -> dict[str, Tensor]:
        """The source's batch, and features where it has pictures."""
        batch = self.data.batch(step, seed)
        if "pictures" in batch:
            batch |= self.teacher(batch["pictures"][:, :, 0])
        return batch


class TrunkTeacher:
    """What the deepest layer of a VGG16 sees: 512 channels, place by place and on average."""

    def __init__(self, trunk: Trunk) -> None:
        self.trunk = trunk.eval().requires_grad_(False)

    def __call__(self, pictures: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """`features [b m 512]` and `teacher_1 [b 512]`."""
        places = self.trunk(pictures)[-1].flatten(2).mT
        return {"features": places, "teacher_1": places.mean(1)}


@dataclass(frozen=True)
class TaughtConfig:
    """Attributes:
    crops: of the pixels.
    """

    crops: CropConfig = field(default_factory=CropConfig)


@source("taught-crops", TaughtConfig)
def taught_crops(_system: nn.Module, config: TaughtConfig) -> Taught:
    """Crops of the corpora that `smalti data` assembles, and what a published VGG16 sees in the pictures."""
    trunk = Trunk()
    trunk.load_state_dict(VGG16.load())
    return Taught(Crops(config.crops), TrunkTeacher(trunk))
