"""JSON objects of a header, read field by field with type and limits checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from smalti.errors import FormatError

MAX_WHOLE = 1 << 53


def load(metadata: Mapping[str, str], name: str) -> Any:
    """What a metadata string holds.

    Raises:
        FormatError: the key is missing, or its text is not JSON.
    """
    try:
        return json.loads(metadata[name])
    except KeyError:
        raise FormatError(f"header key {name!r} is missing") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"header key {name!r} is not JSON: {error}") from error


class Fields:
    """The fields of one JSON object, taken with their type and limits checked."""

    def __init__(self, where: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise FormatError(f"header key {where!r} must be an object")
        self.where, self.values = where, values

    @classmethod
    def parse(cls, metadata: Mapping[str, str], name: str) -> Fields:
        """The object in one of the metadata's strings."""
        return cls(name, load(metadata, name))

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise FormatError(f"header key '{self.where}.{key}' is missing")
        return self.values[key]

    def text(self, key: str) -> str:
        """A string."""
        value = self[key]
        if not isinstance(value, str):
            raise FormatError(f"header key '{self.where}.{key}' must be a text, not {value!r}")
        return value

    def whole(self, key: str, low: int = 0, high: int = MAX_WHOLE) -> int:
        """A whole number from low to high."""
        return self._check(key, self[key], low, high)

    def wholes(
        self, key: str, low: int = 0, high: int = MAX_WHOLE, count: int | None = None
    ) -> tuple[int, ...]:
        """A list of whole numbers from low to high, of a certain length if `count` is given."""
        values = self[key]
        if not isinstance(values, list) or count not in (None, len(values)):
            raise FormatError(f"header key '{self.where}.{key}' must be a list of {count or ''} numbers")
        return tuple(self._check(key, value, low, high) for value in values)

    def _check(self, key: str, value: Any, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            raise FormatError(f"header key '{self.where}.{key}' must hold {low} to {high}, not {value!r}")
        return value
