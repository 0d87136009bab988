"""JSON objects of a header, read field by field with type and limits checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from smalti.errors import FormatError

MAX_WHOLE = 1 << 53


class Fields:
    """The fields of one JSON object, taken with their type and limits checked.

    Args:
        where: what the header calls the object.
        values: the object.
        defaults: of the fields that may be left out.
    """

    def __init__(self, where: str, values: Any, defaults: Mapping[str, Any] | None = None) -> None:
        if not isinstance(values, dict):
            raise FormatError(f"header key {where!r} must be an object")
        self.where, self.values = where, {**(defaults or {}), **values}

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

    def checksums(self, key: str) -> tuple[int, ...]:
        """CRC-32s, eight lower-case hexadecimal digits each, one after another."""
        text = self.text(key)
        if not re.fullmatch("(?:[0-9a-f]{8})*", text):
            raise FormatError(f"header key '{self.where}.{key}' must hold eight hexadecimal digits a CRC-32")
        return tuple(int(text[i : i + 8], 16) for i in range(0, len(text), 8))

    def _check(self, key: str, value: Any, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            raise FormatError(f"header key '{self.where}.{key}' must hold {low} to {high}, not {value!r}")
        return value


def checksum_text(*checksums: int) -> str:
    """CRC-32s as `Fields.checksums` reads them."""
    return "".join(f"{checksum:08x}" for checksum in checksums)
