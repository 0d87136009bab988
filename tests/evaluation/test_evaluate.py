import dataclasses
import io
import json
import math
import re

import pytest
from rich.console import Console

from smalti import evaluation
from smalti.errors import ConfigError, FormatError
from smalti.evaluation import Report
from smalti.evaluation.tables import rows, table

from .makers import ARCHIVES, Blocks, save_picture, scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(2):
        save_picture(scene(64, 80, seed=seed), folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMALTI_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out") / "report"


@pytest.fixture(scope="module")
def report(folder, cache, out):
    return evaluation.evaluate(Blocks(), folder, out=out, judges=False, format=ARCHIVES, command="as typed")


def test_points_of_the_tokenizer_and_every_codec(report):
    assert [(point.codec, point.setting) for point in report.points[:2]] == [("blocks", 1), ("blocks", 2)]
    assert {point.codec for point in report.points} == {"blocks", "JPEG", "WebP", "AVIF"}
    assert report.ours[0].psnr < report.ours[1].psnr
    assert len(report.samples) == 2 * len(report.points)


def test_the_run_can_be_repeated_from_its_record(report, folder):
    assert report.run["command"] == "as typed"
    assert report.run["data"]["names"] == ["0.png", "1.png"]
    assert re.fullmatch("[0-9a-f]{64}", report.run["data"]["sha256"])
    assert {"seed", "seconds", "date", "commit", "machine", "versions"} <= report.run.keys()
    assert report.tokenizer["parameters"] == 1
    assert report.tokenizer["fingerprint"] == Blocks().fingerprint()
    assert [usage.size for usage in report.usage] == [16] * 6


def test_stages_that_were_not_measured_have_no_row(report):
    partly = dataclasses.replace(report, usage=report.usage[:3])
    assert [row[0] for row in rows(partly)[2].body] == ["1"]
    assert len(rows(dataclasses.replace(report, usage=()))) == 2


def test_a_stage_of_codebooks_of_several_sizes(report):
    sizes = [
        dataclasses.replace(usage, size=size)
        for usage, size in zip(report.usage, (16, 64, 32, 16, 16, 16), strict=True)
    ]
    (one, _) = rows(dataclasses.replace(report, usage=tuple(sizes)))[2].body
    assert one[2] == "16–64"


def test_json_goes_there_and_back(report):
    text = report.to_json()
    json.loads(text, parse_constant=pytest.fail)  # no NaN or Infinity, which JSON does not know
    back = Report.from_json(text)
    assert back.to_json() == text
    assert back.ours[0].psnr == report.ours[0].psnr
    assert math.isnan(back.ours[0].frechet)
    assert json.loads(text)["at_equal_bits"][0]["codec"] == "JPEG"


def test_json_of_something_else_is_refused():
    with pytest.raises(FormatError, match="not an evaluation report"):
        Report.from_json("{")
    with pytest.raises(FormatError, match="schema"):
        Report.from_json('{"schema": "other"}')


def test_tables_hold_what_was_measured(report):
    curve, equal, usage = rows(report)
    assert len(curve.body) == 2
    assert curve.body[0][4] == f"{report.ours[0].psnr:.2f}"
    assert {row[2] for row in equal.body} == {"JPEG", "WebP", "AVIF"}
    assert [row[:3] for row in usage.body] == [("1", "1–3", "16"), ("2", "4–6", "16")]
    for row, books in zip(usage.body, (report.usage[:3], report.usage[3:]), strict=True):
        assert row[3] == f"{sum(book.used for book in books) / 48:.1%}"
        assert row[4] == f"{sum(book.perplexity for book in books) / 3:,.1f}"
    terminal = io.StringIO()
    Console(width=200, file=terminal).print(table(curve))
    assert "blocks on 2 pictures" in terminal.getvalue()
    assert f"{report.ours[0].psnr:.2f}" in terminal.getvalue()


def test_the_page_needs_no_other_file(report, out):
    assert {path.name for path in out.iterdir()} == {"report.json", "curves.svg", "index.html"}
    page = (out / "index.html").read_text("utf-8")
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert page.count("data:image/png;base64,") == 2 + 3
    assert page.count("<svg") == 1
    assert "not LPIPS" in page
    assert "not FID" in page
    assert Report.from_json((out / "report.json").read_text("utf-8")).to_json() == report.to_json()


def test_curves_are_the_same_when_drawn_again(report, out):
    from smalti.evaluation.plot import plot

    drawn = plot(report)
    assert drawn == (out / "curves.svg").read_text("utf-8")
    assert drawn.count("bits per pixel") >= 1
    for codec in ("blocks", "JPEG", "WebP", "AVIF"):
        assert codec in drawn


def test_chosen_qualities_alone_are_measured(folder, cache):
    chosen = evaluation.evaluate(Blocks(), folder, qualities=[2], judges=False, format=ARCHIVES)
    assert [point.setting for point in chosen.ours] == [2]


def test_a_quality_that_does_not_exist(folder, cache):
    with pytest.raises(ConfigError, match="quality 7"):
        evaluation.evaluate(Blocks(), folder, qualities=[7], judges=False, format=ARCHIVES)
