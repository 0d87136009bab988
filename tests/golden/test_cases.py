"""The machinery itself: cases are found, read and compared as recorded."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.golden import cases
from tests.golden.cases import Case


@pytest.fixture
def case(tmp_path, monkeypatch) -> Case:
    folder = tmp_path / "demo"
    folder.mkdir()
    tensors = {"weights.a.b": torch.ones(2), "input.x": torch.zeros(3), "output.y": torch.full((3,), 2.0)}
    save_file({**tensors, "output.ids": torch.tensor([1, 2])}, folder / "case_z.safetensors")
    (folder / "case_z.json").write_text(json.dumps({"config": {"dim": 3}, "tolerance": "1e-4 (pca 1e-3)"}))
    monkeypatch.setattr(cases, "SHARED", tmp_path)
    (found,) = cases.find("demo")
    return found


def test_a_case_splits_into_weights_inputs_and_outputs(case: Case) -> None:
    assert set(case.weights) == {"a.b"}
    assert set(case.inputs) == {"x"}
    assert set(case.outputs) == {"y", "ids"}
    assert case.config == {"dim": 3}
    assert case.tolerance == 1e-4


def test_check_refuses_what_differs(case: Case) -> None:
    case.check("y", torch.full((3,), 2.0001))
    case.check("ids", torch.tensor([1, 2], dtype=torch.int32))
    with pytest.raises(AssertionError):
        case.check("y", torch.full((3,), 2.01))
    with pytest.raises(AssertionError):
        case.check("ids", torch.tensor([1, 3]))


def test_an_absent_slug_skips_and_says_where(case: Case) -> None:
    (parameter,) = cases.golden("nothing-here").args[1]
    (mark,) = parameter.marks
    assert mark.name == "skip"
    assert "SMALTI_GOLDEN" in mark.kwargs["reason"]


def test_every_shared_case_has_its_description() -> None:
    if not cases.SHARED.is_dir():
        pytest.skip(f"no golden cases: set SMALTI_GOLDEN (looked in {cases.SHARED})")
    slugs = [folder.name for folder in cases.SHARED.iterdir() if folder.is_dir()]
    found = [case for slug in slugs for case in cases.find(slug)]
    assert found
    for case in found:
        assert case.tolerance >= 0
