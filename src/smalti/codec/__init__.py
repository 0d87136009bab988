"""Token files: pack, entropy-code, seek, verify. `docs/token-file.md` specifies the format.

```
Tokens ──► write / TokenWriter ──► clip.smt ──► TokenFile.open ──► read(seconds) ──► Tokens
                                       └──► trim(quality) ──► smaller.smt
```
"""

from smalti.codec.coders import EntropyCoder, Packed, Tables
from smalti.codec.header import Chunk, Header, Stamp
from smalti.codec.latents import Latents
from smalti.codec.reader import TokenFile
from smalti.codec.select import Selection
from smalti.codec.trim import trim
from smalti.codec.writer import TokenWriter, write

__all__ = [
    "Chunk",
    "EntropyCoder",
    "Header",
    "Latents",
    "Packed",
    "Selection",
    "Stamp",
    "Tables",
    "TokenFile",
    "TokenWriter",
    "trim",
    "write",
]
