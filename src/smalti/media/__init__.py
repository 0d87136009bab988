"""Images and video ⇄ arrays, through PyAV and Pillow.

```
file ── probe ──► Info            read ──► Media.pixels [1 3 t h w]      open_clip ──► chunks
pixels ── write_image, write_clip, ClipWriter ──► file
numpy, torch, Pillow ── as_pixels ──► [b 3 t h w]
```
Pixels are RGB, float32, in [0, 1], upright; a picture is a clip of one frame.
"""

from smalti.media.arrays import as_pixels
from smalti.media.info import Budget, Info
from smalti.media.reader import Chunk, ClipReader, Media, open_clip, probe, read
from smalti.media.sources import sources
from smalti.media.write import ClipWriter, write_clip, write_image

__all__ = [
    "Budget",
    "Chunk",
    "ClipReader",
    "ClipWriter",
    "Info",
    "Media",
    "as_pixels",
    "open_clip",
    "probe",
    "read",
    "sources",
    "write_clip",
    "write_image",
]
