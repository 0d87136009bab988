"""TokBench's rows, buckets and means against the official stored results."""

from itertools import pairwise

import pytest
import torch

from smalti.evaluation.tokbench_scores import (
    BOUNDS,
    FaceRow,
    face_similarity,
    scores,
    string_similarity,
    text_row,
)
from tests.golden.cases import Case, golden


def rows(case: Case) -> list:
    return [
        text_row(each["dataset"], each["gt"], each["pred"], each["ratio"]) for each in case.about["text_rows"]
    ]


@golden("tokbench")
def test_every_row_of_text(case: Case):
    assert case.about["text_rows"]
    for ours, official in zip(rows(case), case.about["text_rows"], strict=True):
        assert ours.accuracy == official["accuracy"], official
        assert ours.similarity == pytest.approx(official["ned"], abs=case.tolerance), official
        assert string_similarity(official["gt"], official["pred"]) == ours.similarity


@golden("tokbench")
def test_rows_as_tensors(case: Case):
    ours = rows(case)
    case.check("accuracy", torch.tensor([row.accuracy for row in ours]))
    case.check("ned", torch.tensor([row.similarity for row in ours]))
    torch.testing.assert_close(torch.tensor([row.ratio for row in ours]), case.inputs["text_ratio"])


@golden("tokbench")
def test_similarity_of_faces(case: Case):
    found = face_similarity(case.inputs["face_emb_original"], case.inputs["face_emb_recon"])
    case.check("face_similarity", found)


@golden("tokbench")
def test_buckets_and_means_at_every_setting(case: Case):
    similar = face_similarity(case.inputs["face_emb_original"], case.inputs["face_emb_recon"])
    faces = [
        FaceRow("", ratio, value)
        for ratio, value in zip(case.inputs["face_ratio"].tolist(), similar.tolist(), strict=True)
    ]
    assert set(case.about["text_aggregate"]) == {str(setting) for setting in BOUNDS}
    for setting, text in case.about["text_aggregate"].items():
        found = scores(rows(case), faces, int(setting))
        near = {"abs": case.tolerance, "nan_ok": True}
        edges = BOUNDS[int(setting)]["text"]
        assert [[*pair] for pair in pairwise(edges)] == text["buckets"]
        assert list(found.accuracy.counts) == list(found.string.counts) == text["counts"]
        assert found.accuracy.means == pytest.approx(text["acc"], **near)
        assert found.string.means == pytest.approx(text["ned"], **near)
        assert found.accuracy.mean == pytest.approx(text["mean_acc"], **near)
        assert found.string.mean == pytest.approx(text["mean_ned"], **near)
        face = case.about["face_aggregate"][setting]
        assert list(found.face.counts) == face["counts"]
        assert found.face.means == pytest.approx(face["sim"], **near)
        assert found.face.mean == pytest.approx(face["mean"], **near)
