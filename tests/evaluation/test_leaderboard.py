import json
import math

import pytest

from smalti.cli import main
from smalti.errors import ConfigError, FormatError
from smalti.evaluation.leaderboard import leaderboard, read_reports, rows, save, to_json
from smalti.evaluation.rate_distortion import RatePoint
from smalti.evaluation.report import Report


def report(
    name: str, figures: list[tuple[float, float]], data: str = "one", date: str = "2026-01-01"
) -> Report:
    points = [
        RatePoint(name, quality, "", 1.0, bits, psnr, 0.9, math.nan, frechet=40 - psnr, tokens=64.0)
        for quality, (bits, psnr) in enumerate(figures, start=1)
    ]
    codecs = [
        RatePoint("JPEG", 5, "", 1.0, 0.25, 20.0, 0.9, 0.9),
        RatePoint("JPEG", 80, "", 1.0, 1.0, 30.0, 0.9, 0.9),
        RatePoint("AVIF", 1, "", 1.0, 0.25, 24.0, 0.9, 0.9),
        RatePoint("AVIF", 72, "", 1.0, 1.0, 36.0, 0.9, 0.9),
    ]
    run = {"date": date, "data": {"kind": "picture", "count": 2, "names": ["a.png", "b.png"], "sha256": data}}
    return Report({"name": name, "parameters": 1000}, (*points, *codecs), (), (), run)


def test_best_first_and_codecs_beside():
    (board,) = leaderboard([report("fine", [(0.5, 25.0), (2.0, 33.0)]), report("good", [(0.5, 28.0)])])
    assert [(entry.name, entry.quality) for entry in board.entries] == [("fine", 2), ("good", 1), ("fine", 1)]
    assert [entry.codec_psnr for entry in board.entries][1:] == [pytest.approx(30.0)] * 2
    assert board.entries[0].codec_psnr == 36.0  # AVIF with fewer bits
    (few,) = leaderboard([report("few", [(0.1, 15.0)])])
    assert math.isnan(few.entries[0].codec_psnr)  # no codec was measured with so few bits
    assert board.entries[0].parameters == 1000


@pytest.mark.parametrize(
    ("figure", "first"), [("frechet", "b"), ("bits_per_pixel", "a"), ("psnr", "b"), ("ms_ssim", "a")]
)
def test_every_figure_sorts_in_its_own_direction(figure, first):
    (board,) = leaderboard([report("a", [(0.5, 25.0)]), report("b", [(0.7, 28.0)])], figure)
    assert board.entries[0].name == first


def test_different_data_never_share_a_table():
    boards = leaderboard(
        [report("a", [(0.5, 25.0)], "x"), report("b", [(0.5, 25.0)]), report("c", [(1.0, 2.0)])]
    )
    assert [[entry.name for entry in board.entries] for board in boards] == [["b", "c"], ["a"]]
    assert boards[0].title == "2 pictures, a.png to b.png"


def test_the_later_report_counts():
    old, new = report("a", [(0.5, 25.0)], date="2026-01-01"), report("a", [(0.5, 26.0)], date="2026-02-01")
    (board,) = leaderboard([new, old])
    assert [entry.psnr for entry in board.entries] == [26.0]


def test_tables_and_files(tmp_path):
    boards = leaderboard([report("a<b", [(0.5, 25.0)])])
    (table,) = rows(boards)
    assert table.body == [
        ("a<b", "1", "1,000", "0.500", "64", "25.00", "0.9000", "–", "–", "15.0", "–", "30.00")
    ]
    save(boards, tmp_path)
    content = json.loads((tmp_path / "leaderboard.json").read_text())
    assert content == json.loads(to_json(boards))
    assert content["boards"][0]["entries"][0]["ms_ssim"] is None
    assert "a&lt;b" in (tmp_path / "index.html").read_text()


def test_what_is_no_report_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs reports"):
        leaderboard([])
    with pytest.raises(ConfigError, match="did you mean 'psnr'"):
        leaderboard([report("a", [(0.5, 25.0)])], "pnsr")
    with pytest.raises(ConfigError, match=r"no report\.json"):
        read_reports([tmp_path])
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(FormatError):
        read_reports([tmp_path])


def test_the_command(tmp_path, capsys):
    for name, psnr in (("first", 25.0), ("second", 27.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(report(name, [(0.5, psnr)]).to_json())
    assert main(["leaderboard", str(tmp_path), "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert shown.index("second") < shown.index("first")
    assert (tmp_path / "out" / "index.html").is_file()
    assert main(["leaderboard", str(tmp_path / "first"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["boards"][0]["entries"][0]["psnr"] == 25.0
