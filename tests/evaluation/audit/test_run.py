import json
import math

import pytest
import torch

import smalti
from smalti.errors import ConfigError, FormatError, MediaError, UnsupportedError
from smalti.evaluation.audit import Audit, Material, audit
from smalti.evaluation.audit.bench import Effort
from smalti.nn.flops import count_flops
from smalti.reducers import Gather, Reducer
from tests.evaluation.audit.made import pictures, tiny

QUICK = Effort(batches=(1, 2), repeats=1, warmup=0, seeds=2)
BUDGETS = (1.0, 0.75, 0.5, 0.25)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("audit")
    return audit(tiny(), ["tome", "random"], pictures(), keep=BUDGETS, effort=QUICK, out=folder), folder


def rows(done, reducer):
    return [row for row in done[0].rows if row.reducer == reducer]


def test_controls_stand_beside_every_reducer_at_its_counts(done) -> None:
    assert [row.reducer for row in done[0].rows] == ["full", *["tome", "random", "uniform"] * 4]
    for tome, random, uniform in zip(
        *(rows(done, name) for name in ("tome", "random", "uniform")), strict=True
    ):
        assert tome.counts == random.counts == uniform.counts
        assert random.beside == uniform.beside == "tome"
        assert random.flops == uniform.flops <= tome.flops, "the same arithmetic but for the choice"


def test_tokens_follow_the_budget_and_the_arithmetic_follows_the_tokens(done) -> None:
    assert [row.counts[-1] for row in rows(done, "tome")] == [17, 13, 9, 5]
    (full,) = rows(done, "full")
    assert full.flops == count_flops(tiny(), torch.rand(1, 3, 32, 32))
    for name in ("tome", "uniform"):
        spent = [row.flops for row in rows(done, name)]
        assert spent == sorted(spent, reverse=True)
        assert spent[0] == full.flops
        assert [row.bound for row in rows(done, name)] == [full.flops / flops for flops in spent]


def test_a_budget_of_one_changes_nothing(done) -> None:
    whole = rows(done, "tome")[0]
    for name in ("cosine", "cka", "restored", "agreement", "shift_overlap", "seed_overlap"):
        assert getattr(whole, name) == pytest.approx(1, abs=1e-6), name
    assert whole.coverage == 0
    assert whole.rows == whole.columns == (0.25,) * 4
    assert (whole.neighbours, whole.probe) == (rows(done, "full")[0].neighbours, rows(done, "full")[0].probe)


def test_fewer_tokens_cost_likeness_and_coverage(done) -> None:
    first, *_, last = rows(done, "random")
    assert last.restored < first.restored
    assert last.cosine < first.cosine
    assert last.coverage > first.coverage
    assert last.seed_overlap < 1
    assert sum(last.rows) == pytest.approx(1)
    assert math.isnan(rows(done, "uniform")[0].seed_overlap), "nothing is drawn there"


def test_times_are_those_of_the_asked_batches(done) -> None:
    for row in done[0].rows:
        assert [speed.batch for speed in row.speeds] == [1, 2]
        assert row.memory > 0
    assert all(math.isnan(row.break_even) for row in done[0].rows)


def test_the_audit_is_written_and_read_again(done) -> None:
    result, folder = done
    again = Audit.from_json((folder / "audit.json").read_text())
    assert again.to_json() == result.to_json()
    assert again.rows[1].speeds == result.rows[1].speeds
    assert again.rows[2].title == "random as tome"
    assert math.isnan(again.rows[1].break_even)
    page = (folder / "index.html").read_text()
    assert "tome at 0.25" in page
    assert page.count("data:image/png") == 1 + 4
    assert "random as tome" in (folder / "curves.svg").read_text()
    assert result.run["data"]["count"] == 6
    with pytest.raises(FormatError, match="schema"):
        Audit.from_json("{}")
    with pytest.raises(FormatError, match="not an audit"):
        Audit.from_json("x")


def test_tables_show_what_was_measured(done) -> None:
    tables = done[0].tables()
    cost, one, two, _, selection = tables
    assert (one.title, two.title) == ("Time for 1 at once", "Time for 2 at once")
    assert all(len(table.body) == 13 for table in tables)
    assert all(len(row) == len(table.head) for table in tables for row in table.body)
    assert "pays from" not in cost.head
    assert "adaptivity" not in selection.head


def test_the_model_comes_back_as_it_was(done) -> None:
    model, x = tiny(), torch.rand(1, 3, 32, 32)
    before = model(x)
    audit(
        model, ["uniform"], Material("blocks", pictures().pixels), keep=BUDGETS, effort=Effort((1,), 1, 0, 1)
    )
    assert torch.equal(model(x), before)
    smalti.reduce(model, "tome", keep=0.5).undo()


def test_without_classes_neighbours_agree_and_no_task_is_scored() -> None:
    few = Material("blocks", pictures().pixels)
    sweep = Effort((1,), 1, 0, 1, break_even=True)
    result = audit(tiny(num_classes=0), ["pool"], few, keep=BUDGETS, effort=sweep)
    pool = [row for row in result.rows if row.reducer == "pool"]
    assert 0 <= pool[-1].agreement <= pool[0].agreement == 1
    assert math.isnan(pool[0].probe)
    assert all(not math.isnan(row.break_even) for row in pool)


class Bright(Reducer):
    """Keeps all tokens of bright pictures and the first two of dark ones, in one batch."""

    ragged = True

    def _reduce(self, tokens, context, count):
        index = torch.arange(tokens.shape[1]).repeat(len(tokens), 1)[:, :count]
        dark = torch.arange(len(tokens)) % 2 == 1
        index[dark, 2:] = -1
        return Gather(tokens.shape[1], index, context.mass)

    def layers(self, depth):
        return (0,)


def test_adaptivity_is_measured_of_ragged_reducers() -> None:
    result = audit(tiny(), [Bright()], pictures(8), keep=BUDGETS, effort=Effort((1,), 1, 0, 1))
    half = next(row for row in result.rows if row.reducer == "bright" and row.keep == 0.5)
    assert half.tokens == (9 + 2) / 2
    assert half.adaptivity == pytest.approx(1, abs=0.3), (
        "bright blocks take more bytes as JPEG than dark ones"
    )
    assert math.isnan(next(row for row in result.rows if row.reducer == "random").adaptivity)


def test_what_cannot_be_measured_is_noted_or_raised() -> None:
    class Refusing(Bright):
        def _reduce(self, tokens, context, count):
            if count < 9:
                raise UnsupportedError("not so few")
            return super()._reduce(tokens, context, count)

    result = audit(tiny(), [Refusing()], pictures(), keep=BUDGETS, effort=Effort((1,), 1, 0, 1))
    assert any("keep 0.25 is left out: not so few" in note for note in result.notes)
    assert {row.keep for row in result.rows} == {1.0, 0.75, 0.5}
    smalti.reduce(tiny(), "tome", keep=0.5)

    class Never(Bright):
        def _reduce(self, tokens, context, count):
            raise UnsupportedError("never")

    with pytest.raises(UnsupportedError, match="never"):
        audit(tiny(), [Never()], pictures(), keep=(0.5, 0.4, 0.3, 0.2), effort=QUICK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": (0.9, 0.5, 0.3)}, "4 budgets"),
        ({"keep": (0.9, 0.5, 0.5, 0.3)}, "not 3"),
        ({"keep": (0.9, 0.5, 0.3, 0.0)}, r"\(0, 1\]"),
        ({"keep": (0.9, 0.5, 0.3, math.nan)}, r"\(0, 1\]"),
        ({"reducers": ["tomee"]}, "'tome'"),
        ({"reducers": ["tome:small"]}, "preset"),
        ({"reducers": []}, "one reducer"),
    ],
)
def test_a_wrong_question_is_refused_before_anything_runs(changes, message) -> None:
    asked = {"reducers": ["tome"], "keep": BUDGETS, **changes}
    with pytest.raises(ConfigError, match=message):
        audit(torch.nn.Identity(), asked["reducers"], "nowhere", keep=asked["keep"])


def test_one_picture_is_not_enough() -> None:
    with pytest.raises(MediaError, match="two or more"):
        audit(tiny(), ["tome"], pictures(1), keep=BUDGETS)


def test_the_json_holds_no_bare_nan(done) -> None:
    json.loads(done[0].to_json(), parse_constant=lambda word: pytest.fail(word))
