"""Pictures side by side with labels under them, as one picture.

```
┌────────┬────────┬────────┐
│ frame  │ frame  │ frame  │   every frame scaled to the same width
│ title  │ title  │ title  │   title in bold, figures below
└────────┴────────┴────────┘
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BACKGROUND, INK, FAINT = "#fbfaf7", "#1d1d1b", "#6b6963"
LARGEST_PANEL = 720  # pixels a side
MARGIN = 12


class Panel(NamedTuple):
    """One picture and what is written under it."""

    frame: Float[Tensor, "3 h w"]
    title: str
    figures: str


def draw(panels: Sequence[Panel], columns: int = 3) -> Image.Image:
    """The panels row by row; frames larger than 720 pixels a side are shown smaller."""
    pictures = [_picture(panel.frame) for panel in panels]
    width, height = pictures[0].size
    text = max(11, width // 28)
    cell_width, cell_height = width + MARGIN, height + MARGIN + round(text * 3.4)
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * cell_width + MARGIN, rows * cell_height + MARGIN), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(text * 1.2), ImageFont.load_default(text)
    for place, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
        left = MARGIN + place % columns * cell_width
        top = MARGIN + place // columns * cell_height
        sheet.paste(picture, (left, top))
        pen.text((left, top + height + text * 0.3), panel.title, INK, large)
        pen.text((left, top + height + text * 1.8), panel.figures, FAINT, small)
    return sheet


def _picture(frame: Float[Tensor, "3 h w"]) -> Image.Image:
    levels = frame.permute(1, 2, 0).mul(255).round().to(torch.uint8)
    picture = Image.fromarray(np.asarray(levels))
    scale = min(1.0, LARGEST_PANEL / max(picture.size))
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)
