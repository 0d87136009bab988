"""The header's sections ⇄ one short text: JSON, compressed with a dictionary of what headers usually say.

```
{"tokenizer":{…},"source":{…},…} ──► JSON ──► DEFLATE, which begins with DICTIONARY ──► base64
```
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from smalti.errors import BudgetError, ConfigError, FormatError

MAX_JSON = 1 << 25  # bytes, when unpacked: the index of half a million chunks
DICTIONARY = (
    b'{"name":"default","preset":"s16","kind":"float64","times":"coords":"mass":"filler":"dim":,'
    b'"grid":false,"coder":"packed""tables""latents","precision":"float32""float16""bfloat16""int8"'
    b'"fps":29.97,"first":1,"arrays":{"audio":{"bytes":4096,"crc":"},"extra":{}}'
    b'"source":{"height":1080,"width":1920,"frames":250,"fps":25.0,"time_base":[1,30000],'
    b'"times":{"kind":"ticks","first":0,"step":1001,"bits":0},"pad":[0,0,0]},'
    b'{"tokenizer":{"name":"mosaic","preset":"default","fingerprint":"","codebook_sizes":['
    b"24057,59049,729,59049,19773,28561,28561,13,59049,59049,13689,28561,28561,28561,28561,28561,169,"
    b"59049,59049,59049,59049,6561,28561,28561,28561,28561,28561,28561,59049,59049,59049,59049,59049,"
    b'59049,59049,19773,28561,28561,28561,28561,28561,13],"stages":[3,8,17,28,42]},'
    b'"source":{"height":512,"width":768,"pad":[0,0,0]},"tokens":{"shape":[1,64,96],"quality":5,'
    b'"coder":"context-1","temporal":[1,4]},"chunks":[{"latents":1,"frames":1,"bytes":[,"crc":""}]}'
)


def pack_sections(sections: Mapping[str, Any]) -> str:
    """The sections as text for the header.

    Raises:
        ConfigError: what JSON cannot hold.
        BudgetError: more than a reader unpacks.
    """
    text = to_json(sections).encode()
    if len(text) > MAX_JSON:
        raise BudgetError(f"a header of {len(text)} bytes, {MAX_JSON} are allowed: choose longer chunks")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
    return base64.b64encode(deflate.compress(text) + deflate.flush()).decode()


def unpack_sections(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The sections in a file's metadata.

    Raises:
        FormatError: they are missing, too long, or no packed JSON object.
    """
    if "header" not in metadata:
        raise FormatError("header key 'header' is missing: no release wrote such a file, encode it again")
    try:
        inflate = zlib.decompressobj(-15, zdict=DICTIONARY)
        text = inflate.decompress(base64.b64decode(metadata["header"], validate=True), MAX_JSON + 1)
        if len(text) > MAX_JSON:
            raise FormatError(f"header key 'header' unpacks to more than {MAX_JSON} bytes")
        if not inflate.eof or inflate.unused_data:
            raise FormatError("header key 'header' ends early or late")
        sections = json.loads(text)
    except (ValueError, zlib.error, RecursionError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"header key 'header' is no packed JSON: {error}") from error
    if not isinstance(sections, dict):
        raise FormatError("header key 'header' must hold an object")
    return sections


def to_json(section: Any) -> str:
    """Anything that a header holds, as JSON without spaces.

    Raises:
        ConfigError: what JSON cannot hold.
    """
    try:
        return json.dumps(section, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the token file's header cannot hold {section!r}: {error}") from error
