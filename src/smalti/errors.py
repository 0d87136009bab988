"""The one tree of errors.

```
SmaltiError                 exit code
├── ConfigError             2   a name, option, recipe or checkpoint that does not fit
├── MediaError              3   a picture, clip or array that cannot be read
├── FormatError             3   a token file or token ids that break the format
├── UnsupportedError        3   something known that this installation cannot do
├── IntegrityError          4   data that was changed since it was written
└── BudgetError             5   more pixels, frames, seconds or bytes than allowed
```

A message says what is wrong, where (path, byte, frame, key) and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SmaltiError(Exception):
    """Whatever Smalti raises on purpose."""

    exit_code = 3


class ConfigError(SmaltiError, ValueError):
    """A name, option, recipe or checkpoint does not fit."""

    exit_code = 2


class MediaError(SmaltiError, ValueError):
    """A picture, clip or array cannot be read or holds values that mean nothing.

    Attributes:
        decoded: frames that were read before the fault, where that is known.
        promised: frames that the file's header announced, where it does.
    """

    def __init__(self, message: str, *, decoded: int | None = None, promised: int | None = None) -> None:
        super().__init__(message)
        self.decoded = decoded
        self.promised = promised


class FormatError(SmaltiError, ValueError):
    """A token file or token ids break the format."""


class UnsupportedError(SmaltiError):
    """Something known that this installation, model or file cannot do."""


class IntegrityError(SmaltiError):
    """Data was changed since it was written."""

    exit_code = 4


class BudgetError(SmaltiError):
    """More pixels, frames, seconds or bytes than allowed."""

    exit_code = 5


def nearest(name: str, known: Iterable[str]) -> str:
    """Words for an error message: the closest known name, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names) or 'none'}"


def missing_extra(package: str, extra: str) -> UnsupportedError:
    """The error for a library that belongs to an extra which is not installed."""
    return UnsupportedError(f"{package} is not installed: run `pip install 'smalti[{extra}]'`")
