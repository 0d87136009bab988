"""Systems with their weights: one safetensors file holds everything needed to build one again.

```
write(model, path) ──► metadata: name, preset, config (JSON) │ tensors ──► read(path) ──► model
```

The weights that come with the package lie in this folder: `mosaic.safetensors` for a default preset,
`mosaic-s16.safetensors` for another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from smalti.errors import ConfigError, FormatError, nearest
from smalti.registry import card, card_of

HERE = Path(__file__).parent
FILE = "model.safetensors"  # in a folder or a repository of the hub
LISTED = 10  # keys that an error message names
PLAIN = (int, float, str, bool)  # types of fields whose values are checked


def shipped() -> dict[str, Path]:
    """Name → file of every system whose weights come with the package."""
    return {path.stem: path for path in sorted(HERE.glob("*.safetensors"))}


def locate(place: str, options: Mapping[str, Any] | None = None) -> Path:
    """The file of weights in a folder, or in a repository of the Hugging Face hub.

    Args:
        place: a folder or a hub id.
        options: `revision`, `cache_dir`, `force_download`, `local_files_only` and `token`, for the hub.

    Raises:
        ConfigError: a folder without weights, or no such repository.
    """
    if Path(place).is_dir():
        if not (Path(place) / FILE).is_file():
            raise ConfigError(f"{place}: the folder holds no {FILE}")
        return Path(place) / FILE
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
    chosen = {name: value for name, value in (options or {}).items() if name in names}
    try:
        return Path(hf_hub_download(place, FILE, **chosen))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigError(f"{place}: no such file or folder, and not on the hub: {error}") from error


def identify(model: Any) -> tuple[str, str]:
    """Name and preset of a registered system; the preset is `custom` where no configuration is equal.

    Raises:
        ConfigError: the model's class is not registered.
    """
    found = card_of(type(model))
    presets = (name for name, known in found.presets.items() if known == model.config)
    return found.name, next(presets, "custom")


def write(model: Any, path: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Save a registered system: its name, preset, configuration and weights, always in the same bytes.

    Args:
        model: the system.
        path: of the file.
        dtype: to store floating weights in; a model whose weights it cannot hold exactly is changed by
            saving and loading.

    Raises:
        ConfigError: the model's class is not registered.
    """
    name, preset = identify(model)
    metadata = {"name": name, "preset": preset, "config": json.dumps(written(model.config))}
    temporary = Path(f"{path}.tmp")

    def stored(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    try:
        tensors = {k: stored(t.detach().cpu()).contiguous() for k, t in model.state_dict().items()}
        save_file(tensors, temporary, metadata)
        _sort_metadata(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sort_metadata(path: Path) -> None:
    """safetensors writes metadata in random order; sorted, the same weights give the same bytes."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))


def read(path: str | os.PathLike[str]) -> Any:
    """The system that a file holds, ready to use.

    Raises:
        FormatError: not a safetensors file, or one without a system's name and configuration.
        ConfigError: an unknown system or configuration, or weights that do not fit it.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{path}: cannot be read as safetensors: {error}") from error
    try:
        name, config = metadata["name"], json.loads(metadata["config"])
    except (KeyError, ValueError) as error:
        raise FormatError(f"{path}: holds tensors, but no name and configuration of a system") from error
    if not isinstance(config, dict):
        raise FormatError(f"{path}: the configuration of {name} is no mapping of fields")
    found = card(name)
    model = found.cls(build(type(next(iter(found.presets.values()))), config))
    expected = model.state_dict()
    wrong = [f"missing {key}" for key in expected if key not in tensors]
    wrong += [f"unknown {key}" for key in tensors if key not in expected]
    wrong += [
        f"{key} is {tuple(tensors[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if wrong:
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        raise ConfigError(f"{path}: weights do not fit {name}: {'; '.join(wrong[:LISTED])}{more}")
    model.load_state_dict(tensors)
    return model.eval()


def written(config: Any) -> dict[str, Any]:
    """A configuration as plain values, from which `build` makes it again.

    A nested configuration of another class than its field's hint gets a key `kind` with the class's name.
    """
    hints = typing.get_type_hints(type(config))
    plain: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(config)):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            kind = {} if _expects(hints[name], type(value)) else {"kind": type(value).__name__}
            plain[name] = kind | written(value)
        else:
            plain[name] = value
    return plain


def _expects(hint: Any, cls: type) -> bool:
    """Whether a hint leaves no doubt that a value is of this class."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return [choice for choice in choices if choice is not type(None)] == [cls]


def _kinds(cls: type) -> dict[str, type]:
    """A class and all that descend from it, by name."""
    found = {cls.__name__: cls}
    for child in cls.__subclasses__():
        found |= _kinds(child)
    return found


def build(cls: type, values: Mapping[str, Any]) -> Any:
    """A configuration from plain values, with its nested configurations and tuples.

    Raises:
        ConfigError: an unknown field, or a value of another type.
    """
    if "kind" in values:
        kinds = _kinds(cls)
        if values["kind"] not in kinds:
            raise ConfigError(f"no {cls.__name__} {values['kind']!r}: {nearest(str(values['kind']), kinds)}")
        cls = kinds[values["kind"]]
        values = {key: value for key, value in values.items() if key != "kind"}
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise ConfigError(f"{cls.__name__} has no field {key!r}: {nearest(key, known)}")
    shaped = {key: _shape(hints[key], value) for key, value in values.items()}
    for key, value in shaped.items():
        if hints[key] in PLAIN and type(value) is not hints[key]:
            raise ConfigError(f"{cls.__name__}.{key} must be {hints[key].__name__}, not {value!r}")
    return cls(**shaped)


def _shape(hint: Any, value: Any) -> Any:
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, Mapping):
        for choice in (choice for choice in choices if isinstance(choice, type)):
            if value.get("kind", choice.__name__) in _kinds(choice) and (
                "kind" in value or dataclasses.is_dataclass(choice)
            ):
                return build(choice, value)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML takes 1e-4 for a word
    if isinstance(value, list):
        return tuple(_shape(Any, each) for each in value)
    return value
