"""Smalti: pictures, video, 3D and motion as few, faithful tokens.

```
media ──► tokenizers ──► Tokens ──► reducers ──► fewer Tokens ──┬─► backbones    (understand)
  ▲                        │  ▲                                 ├─► generators   (create)
  └──────── decode ◄──── codec (files)                          └─► restore ──► decode
```

Names are imported when first used, so `import smalti` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from smalti._version import __version__

if TYPE_CHECKING:
    from smalti import errors as errors
    from smalti import quantizers as quantizers
    from smalti.api import decode as decode
    from smalti.api import encode as encode
    from smalti.api import load as load
    from smalti.api import load_tokens as load_tokens
    from smalti.api import save_tokens as save_tokens
    from smalti.official import load_official as load_official
    from smalti.reducers.hosts import reduce as reduce
    from smalti.reducers.hosts.onnx import export_onnx as export_onnx
    from smalti.registry import create as create
    from smalti.registry import systems as systems
    from smalti.tokens import Tokens as Tokens

_HOME = {
    "Tokens": "smalti.tokens",
    "create": "smalti.registry",
    "decode": "smalti.api",
    "encode": "smalti.api",
    "load": "smalti.api",
    "load_official": "smalti.official",
    "load_tokens": "smalti.api",
    "export_onnx": "smalti.reducers.hosts.onnx",
    "reduce": "smalti.reducers.hosts",
    "save_tokens": "smalti.api",
    "systems": "smalti.registry",
}
_MODULES = (
    "backbones",
    "codec",
    "errors",
    "evaluation",
    "media",
    "nn",
    "quantizers",
    "reducers",
    "tokenizers",
    "training",
)

__all__ = ["__version__", *_HOME, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"smalti.{name}")
    raise AttributeError(f"module 'smalti' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
