"""Which pictures are photographs, and which are doubles.

```
bytes ──► short side ≥ 96 px? ──► one colour ≤ 25 %? ──► colours ≥ 200? ──► hash unlike all before? ──► kept
```

The commonest exact colour tells drawings, cut-outs and screenshots from photographs: skies, fog and night are
smooth but never of one colour.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

SHORTEST_SIDE = 96
LARGEST_SHARE = 0.25
FEWEST_COLOURS = 200
HASH_SIDE = 16
LIKE_BITS = 25
DECODED_SIDE = 1024


@dataclass(frozen=True)
class Look:
    """What a picture is like.

    Attributes:
        width, height: pixels.
        share: of its pixels that have its commonest colour, [0, 1].
        colours: distinct colours.
        hash: is each cell of a 16×16 grid darker than its right neighbour; 256 bits in hex.
    """

    width: int
    height: int
    share: float
    colours: int
    hash: str

    @property
    def fault(self) -> str | None:
        """Why it is not taken for a photograph, or none."""
        if min(self.width, self.height) < SHORTEST_SIDE:
            return f"short side below {SHORTEST_SIDE} px"
        if self.share > LARGEST_SHARE:
            return f"one colour fills {self.share:.0%}"
        if self.colours < FEWEST_COLOURS:
            return f"only {self.colours} colours"
        return None

    def like(self, other: str) -> bool:
        """Whether another picture's hash differs in at most a tenth of its bits."""
        return (int(self.hash, 16) ^ int(other, 16)).bit_count() <= LIKE_BITS


def look(content: bytes) -> Look:
    """Decode a picture file, large JPEGs at a fraction of their size, and look at it.

    Raises:
        OSError: not a picture.
    """
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        image.draft("RGB", (DECODED_SIDE, DECODED_SIDE))
        picture = image.convert("RGBA").convert("RGB")
    red, green, blue = np.moveaxis(np.asarray(picture, np.uint32), -1, 0)
    counts = np.bincount((red << 16 | green << 8 | blue).ravel())
    small = np.asarray(picture.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX))
    return Look(
        width=width,
        height=height,
        share=float(counts.max() / counts.sum()),
        colours=int(np.count_nonzero(counts)),
        hash=np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex(),
    )
