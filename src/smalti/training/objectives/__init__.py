"""What recipes minimise, by name: `@objective("mosaic", MosaicOptions)`, one objective a file.

```
batch ──► Objective ──► Loss(total, parts)
             ├── start(data)      before the first step
             ├── samples(batch)   pictures to look at
             └── finish(system)   after the last step
```
"""

from smalti.training.objectives.base import Loss, Objective, objective
from smalti.training.objectives.mosaic import MosaicObjective, MosaicOptions, NeighbourRate

__all__ = ["Loss", "MosaicObjective", "MosaicOptions", "NeighbourRate", "Objective", "objective"]
