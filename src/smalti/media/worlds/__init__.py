"""Small worlds: rendered clips of shapes that move, bounce, collide, hide, come and go, and words for them.

```
World(height, width, frames) ─ scene(seed) ─► Scene ─┬─ tracks, events        (simulated, exact)
                                                     ├─ render ─► Clip: pixels, masks, boxes
                                                     ├─ caption ─► "a red square moves left and bounces"
                                                     └─ questions ─► ("what colour is the square ?", "red")
```
Equal seeds give equal scenes; `seeds("train")` and `seeds("test")` share none.
"""

from smalti.media.worlds.motion import Event, Thing, Tracks
from smalti.media.worlds.paint import Clip, render
from smalti.media.worlds.scene import (
    COLOURS,
    DIRECTIONS,
    KINDS,
    PLOTS,
    Scene,
    World,
    seeds,
)
from smalti.media.worlds.words import ANSWERS, VOCABULARY, Question, Vocabulary, caption, questions

__all__ = [
    "ANSWERS",
    "COLOURS",
    "DIRECTIONS",
    "KINDS",
    "PLOTS",
    "VOCABULARY",
    "Clip",
    "Event",
    "Question",
    "Scene",
    "Thing",
    "Tracks",
    "Vocabulary",
    "World",
    "caption",
    "questions",
    "render",
    "seeds",
]
