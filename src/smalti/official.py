"""Official checkpoints: `smalti.load_official(name, file)` reads the authors' weights into our module.

```
file.safetensors | file.pt (weights alone are unpickled) ──► names → tensors ──► cls.from_official ──► module
```
"""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import safe_globals

from smalti import registry
from smalti.errors import ConfigError, FormatError, UnsupportedError

HARMLESS: list[Any] = [argparse.Namespace]  # settings, which Lightning's checkpoints hold beside the tensors
WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "module",
    "net",
    "sd",
)


def load_official(
    name: str, path: str | os.PathLike[str], *, room: str | None = None, **options: Any
) -> nn.Module:
    """A system with the weights of its authors' checkpoint, in evaluation mode.

    Args:
        name: of the system.
        path: of the checkpoint: safetensors, or a pickle of which nothing but tensors is read.
        room: where the name stands in several rooms.
        options: fields of the configuration that the checkpoint does not tell.

    Raises:
        ConfigError: no such system, or weights that do not fit it.
        UnsupportedError: this system has no official checkpoint that can be read.
        FormatError: not a checkpoint, or one that holds more than tensors.
    """
    rooms = [card.room for card in registry.systems(room) if card.name == name]
    cards = [registry.card(name, found) for found in rooms] or [registry.card(name, room)]
    able = [card for card in cards if hasattr(card.cls, "from_official")]
    if not able:
        raise UnsupportedError(f"{name} has no official checkpoint that can be read")
    return able[0].cls.from_official(read_checkpoint(path), **options).eval()


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Names and tensors of a checkpoint, out of whatever dictionaries they are wrapped in.

    Raises:
        FormatError: it cannot be read, or nothing in it is a tensor.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(), safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # of pickles that are refused in the next line
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise FormatError(f"{path} is not a checkpoint of tensors alone: {error}") from error
    while isinstance(found, dict):
        inner = next((found[key] for key in WRAPPERS if isinstance(found.get(key), dict)), None)
        if inner is None:
            break
        found = inner
    tensors = (
        {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else {}
    )
    if not tensors:
        raise FormatError(f"{path} holds no named tensors")
    return tensors
