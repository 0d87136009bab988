import json
import math
import time

import pytest
import torch

import smalti
from smalti.errors import ConfigError, UnsupportedError
from smalti.evaluation.profiling.clock import clock_of, on_threads, race
from smalti.evaluation.profiling.contender import Contender, clip_shape, grid_of, pixels
from smalti.evaluation.profiling.growth import crossing, exponent
from smalti.evaluation.profiling.mixers import MIXERS, PLAIN
from smalti.evaluation.profiling.plain import plain_of
from smalti.evaluation.profiling.plot import plot
from smalti.evaluation.profiling.run import Bench, profile
from smalti.nn.flops import attention_flops


def test_the_exponent_of_a_power_law_is_that_of_its_upper_half() -> None:
    law = {n: 3.0 * n**1.7 for n in (64, 256, 1024, 4096, 16384)}
    assert exponent(law) == pytest.approx(1.7, abs=1e-12)
    assert exponent(law | {64: 1e9, 256: 1e-9}) == pytest.approx(1.7, abs=1e-12)
    assert exponent({10: 5.0, 20: 20.0}) == pytest.approx(2.0)
    assert math.isnan(exponent({10: 5.0}))


def test_two_known_lines_cross_where_they_do() -> None:
    counts = (10, 20, 40, 80, 160)
    square, line = {n: 2.0 * n * n for n in counts}, {n: 100.0 * n for n in counts}
    assert crossing(square, line) == pytest.approx(50.0)
    assert crossing(line, square) == math.inf
    assert crossing(square, {n: 1.0 * n for n in counts}) == 10
    assert crossing(square, {40: 4000.0, 80: 8000.0, 320: 1.0}) == pytest.approx(50.0)
    assert math.isnan(crossing(square, {5: 1.0}))


def test_sources_have_as_many_patches_as_asked_for() -> None:
    assert grid_of(1024) == (32, 32)
    assert grid_of(200) == (10, 20)
    assert clip_shape(256, 1) == (1, 3, 1, 256, 256)
    assert clip_shape(256, 8) == (1, 3, 8, 64, 128)
    assert clip_shape(64, 32) == (1, 3, 4, 64, 64), "a short count gets fewer frames"
    assert clip_shape(4, 32) == (1, 3, 1, 32, 32)
    assert torch.equal(pixels(16, 1), pixels(16, 1))


@pytest.mark.parametrize("parameters", [3_400_000, 21_500_000, 86_000_000])
def test_the_plain_transformer_has_about_as_many_parameters(parameters) -> None:
    with torch.device("meta"):
        plain = plain_of(parameters)
    assert sum(p.numel() for p in plain.parameters()) == pytest.approx(parameters, rel=0.05)
    assert plain(torch.zeros(1, 3, 2, 32, 48, device="meta")).shape == (1, plain.norm.normalized_shape[0])


def test_calls_race_by_turns_until_their_time_is_up() -> None:
    order, before = [], torch.get_num_threads()
    found = race({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 1, 3, 10.0)
    assert order == ["a", "b"] * 3
    assert [found[name].repeats for name in "ab"] == [3, 3]
    assert found["a"].clock == "processor"
    assert race({"slow": lambda: spin(0.02)}, 1, 50, 0.01)["slow"].repeats == 1
    seen = []
    assert race({"a": lambda: seen.append(torch.get_num_threads())}, 2, 1, 1.0)["a"].clock == "wall"
    assert seen == [2]
    with pytest.raises(RuntimeError), on_threads(2):
        raise RuntimeError
    assert torch.get_num_threads() == before
    assert clock_of(1) != clock_of(2)


def spin(seconds: float) -> None:
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


def test_what_would_take_too_long_is_not_run_and_said_so() -> None:
    run = []

    def prepare(tokens):
        run.append(tokens)
        return lambda: spin(tokens / 1000)

    def picky(tokens):
        if tokens == 10:
            raise ConfigError("ten is not my number")
        return lambda: None

    bench = Bench([Contender("slow", 1, prepare), Contender("picky", 1, picky)], [1], 1, 0.25)
    for tokens in (10, 50, 10_000, 1_000_000):
        bench.measure(tokens)
    assert run == [10, 50], "not even tried where the points before foretell it"
    slow, other = bench.lines()
    assert [point.tokens for point in slow.points] == [10, 50]
    assert [point.tokens for point in other.points] == [50, 10_000, 1_000_000]
    assert "picky on 10 tokens: ten is not my number" in bench.notes
    assert sum("slow is not measured on 10,000 tokens and more" in note for note in bench.notes) == 1


def test_mixers_are_measured_and_written(tmp_path) -> None:
    result = profile(
        "mixers", tokens=[64, 16], threads=[1], repeats=1, width=32, heads=2, out=tmp_path / "p", command="me"
    )
    assert [line.name for line in result.lines] == list(MIXERS)
    assert result.lines[0].name == PLAIN
    lines = {line.name: line for line in result.lines}
    assert [point.flops for point in lines[PLAIN].points] == [attention_flops(n, 32) for n in (16, 64)]
    assert lines[PLAIN].parameters == 4 * 32 * 32 + 4 * 32
    assert result.growth(lines["token parameters"])["GFLOPs"] == pytest.approx(1.0)
    assert all(
        point.memory > 0 and point.times[0].seconds > 0 for line in result.lines for point in line.points
    )
    written = json.loads((tmp_path / "p" / "profile.json").read_text())
    assert written["run"]["command"] == "me"
    assert written["run"]["data"]["tokens"] == [16, 64]
    assert written["lines"][0]["cheaper_from"] is None
    assert written["lines"][3]["growth"]["GFLOPs"] == pytest.approx(1.0, abs=0.1)
    curves = (tmp_path / "p" / "curves.svg").read_text()
    assert all(name in curves for name in MIXERS)
    assert sorted(file.name for file in (tmp_path / "p").iterdir()) == ["curves.svg", "profile.json"]
    tables = {rows.title: rows for rows in result.tables()}
    assert tables["GFLOPs"].head == ("tokens", "16", "64")
    assert len(tables["Growth: exponent of tokens"].body) == len(MIXERS)
    assert len(tables[f"Cheaper than {PLAIN} from so many tokens on"].body) == len(MIXERS) - 1


def test_the_hash_is_learned_before_anything_is_measured() -> None:
    module = MIXERS["kernel hash"].build(32, 2, 64)
    assert module.mixer.age >= 0
    assert module.mixer.hash.projection.abs().sum() > 0


def test_a_backbone_stands_beside_a_plain_transformer() -> None:
    result = profile("ecoformer", tokens=[16, 64], threads=[1, 2], repeats=1)
    plain, ours = result.lines
    model = smalti.create("ecoformer", room="backbones")
    assert ours.parameters == model.params()
    assert plain.parameters == pytest.approx(ours.parameters, rel=0.05)
    assert [p.flops for p in ours.points] == [model.flops((1, 3, 1, s, s)) for s in (64, 128)]
    assert [p.joules for p in ours.points] == [model.energy((1, 3, 1, s, s)).joules for s in (64, 128)]
    assert plain.points[0].joules == pytest.approx(plain.points[0].flops * 4.6e-12)
    assert [t.threads for t in ours.points[0].times] == [1, 2]
    assert {"mJ", "ms, 1 thread", "ms, 2 threads"} <= result.figures().keys()
    assert "mJ" in plot(result)


def test_a_model_without_the_contract_of_backbones_is_measured_as_well() -> None:
    plain, ours = profile("stvit", "deit-t", tokens=[64], threads=[1], repeats=1).lines
    assert ours.points[0].flops > 0
    assert ours.points[0].joules is None
    assert plain.parameters == pytest.approx(ours.parameters, rel=0.1)


def test_what_cannot_be_profiled_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="hot reads"):
        profile("hot")
    with pytest.raises(ConfigError, match="picture-s"):
        profile("ponet", "lra-listops", tokens=[16], repeats=1)
    with pytest.raises(ConfigError, match="over 1e-09 s a run"):
        profile("mixers", tokens=[16], width=32, heads=2, cap=1e-9)
    with pytest.raises(ConfigError, match="presets"):
        profile("mixers", "small")
    with pytest.raises(ConfigError, match="those of mixers"):
        profile("t2t-vit", width=32)
    with pytest.raises(ConfigError, match="5 heads do not divide 32"):
        profile("mixers", width=32, heads=5)
    for wrong in ({"tokens": [0, 4]}, {"threads": []}, {"repeats": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be 1 or more"):
            profile("mixers", **wrong)
    with pytest.raises(ConfigError, match="did you mean"):
        profile("t2t-vitt")
