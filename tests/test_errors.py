from __future__ import annotations

import pytest

from smalti import errors
from smalti.errors import SmaltiError, missing_extra, nearest

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_every_error_is_one_of_ours_and_documented_in_the_drawing() -> None:
    for kind in KINDS:
        assert issubclass(kind, SmaltiError)
        line = next(line for line in errors.__doc__.splitlines() if kind.__name__ in line)
        if kind is not SmaltiError:
            assert line.split()[2] == str(kind.exit_code)


def test_what_python_calls_a_value_error_is_one() -> None:
    for kind in (errors.ConfigError, errors.MediaError, errors.FormatError):
        assert issubclass(kind, ValueError)


def test_a_media_error_knows_how_far_it_came() -> None:
    error = errors.MediaError("broken", decoded=3, promised=5)
    assert (str(error), error.decoded, error.promised) == ("broken", 3, 5)
    assert errors.MediaError("broken").decoded is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mosiac", "did you mean 'mosaic'?"),
        ("zzz", "known: mosaic, tome"),
    ],
)
def test_the_nearest_name_is_said_or_all_of_them(name: str, words: str) -> None:
    assert nearest(name, iter(("tome", "mosaic"))) == words


def test_with_nothing_known_none_is_said() -> None:
    assert nearest("x", ()) == "known: none"


def test_a_missing_library_says_how_to_install_it() -> None:
    error = missing_extra("timm", "hosts")
    assert isinstance(error, errors.UnsupportedError)
    assert "timm is not installed" in str(error)
    assert "pip install 'smalti[hosts]'" in str(error)
