"""`smalti profile` as a user meets it, with narrow mixers."""

from __future__ import annotations

import json

SMALL = ("mixers", "--width", "32", "--heads", "2", "--tokens", "16,64", "--threads", "1", "--repeats", "1")


def test_profile_prints_tables_and_writes_the_curves(run, tmp_path) -> None:
    code, out, err = run("profile", *SMALL, "-o", tmp_path / "p")
    assert (code, err) == (0, "")
    assert "fused attention" in out
    assert "Growth" in out
    assert "CrossViT's: only the first token asks" in out
    assert json.loads((tmp_path / "p" / "profile.json").read_text())["subject"]["name"] == "mixers"
    assert (tmp_path / "p" / "curves.svg").is_file()


def test_profile_as_json_is_nothing_but_json(run) -> None:
    code, out, _ = run("profile", *SMALL, "--json")
    assert code == 0
    assert json.loads(out)["schema"] == "smalti-profile 1"


def test_profile_explains_a_wrong_option(run) -> None:
    code, _, err = run("profile", "mixers", "--tokens", "64,many")
    assert code == 2
    assert "'64,many': write whole numbers" in err
    code, _, err = run("profile", "crossvitt")
    assert code == 2
    assert "did you mean" in err
