from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from smalti.errors import ConfigError, IntegrityError, SmaltiError
from smalti.training import checkpoint
from smalti.training.checkpoint import CHECKPOINT, Average
from smalti.training.interruption import Interruption
from smalti.training.journal import CURVES, LOG, SAMPLES
from smalti.training.loop import LoopConfig, fit
from smalti.training.objectives import Loss, Objective

CONFIG = LoopConfig(
    steps=11, learning_rate=0.05, warmup=3, cooldown=4, weight_decay=0.1, log_every=3, save_every=4, seed=7
)


class Line(Objective):
    """A line through noisy points, with dropout, so that every step is random."""

    def __init__(self, width: int = 3, bad_at: int | None = None) -> None:
        super().__init__()
        self.fast, self.slow = nn.Linear(width, width), nn.Linear(width, 1)
        self.register_buffer("seen", torch.zeros(()))
        self.bad_at = bad_at

    def parameter_groups(self) -> list[dict]:
        fast, slow = list(self.fast.parameters()), list(self.slow.parameters())
        return [{"params": fast, "factor": 1.0}, {"params": slow, "factor": 0.1}]

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        self.seen += 1
        hidden = nn.functional.dropout(self.fast(batch["x"]), 0.3)
        error = (self.slow(torch.relu(hidden)) - batch["x"].sum(1, keepdim=True)).square().mean()
        if self.bad_at is not None and self.seen > self.bad_at:
            error = error * torch.nan
        parts = {"error": error.detach()}
        if self.seen % 2:
            parts["odd"] = error.detach()  # not every part is measured in every step
        return Loss(error, parts)


def batch(step: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * seed + step)
    return {"x": torch.randn(8, 3, generator=generator)}


def line(seed: int = 0, **options) -> Line:
    torch.manual_seed(seed)
    return Line(**options)


def log(folder: Path) -> list[dict]:
    lines = [json.loads(text) for text in (folder / LOG).read_text().splitlines()]
    for entry in lines:
        del entry["seconds"]
    return lines


class Killed(BaseException):
    pass


def killed_at(step: int):
    def stopping(now: int, seed: int) -> dict[str, Tensor]:
        if now == step:
            raise Killed
        return batch(now, seed)

    return stopping


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    model = line()
    return fit(model, batch, CONFIG, folder), model, folder


def assert_same(resumed: dict[str, Tensor], model: Line, folder: Path, unbroken) -> None:
    average, whole, wanted = unbroken
    for name, value in average.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=1e-6)
    assert len(log(folder)) == len(log(wanted))
    for entry, other in zip(log(folder), log(wanted), strict=True):
        assert entry == pytest.approx(other, abs=2e-5)


@pytest.mark.parametrize("step", [2, 6, 8, 10])
def test_a_killed_and_resumed_run_equals_an_unbroken_one(tmp_path, unbroken, step: int) -> None:
    with pytest.raises(Killed):
        fit(line(), killed_at(step), CONFIG, tmp_path)
    model = line(seed=9)
    if step < CONFIG.save_every:
        model = line()  # nothing was saved: the run starts again
    assert_same(fit(model, batch, CONFIG, tmp_path), model, tmp_path, unbroken)


def test_a_run_that_stops_after_its_time_is_resumed_step_by_step(tmp_path, unbroken) -> None:
    model = line()
    for done in range(1, CONFIG.steps + 1):
        average = fit(model, batch, CONFIG, tmp_path, until=0.0)
        assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == done
        assert_same(average, model, tmp_path, unbroken) if done == CONFIG.steps else None
        model = line(seed=done)


def test_a_finished_run_does_nothing_more(tmp_path, unbroken) -> None:
    model = line()
    fit(model, batch, CONFIG, tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes(), (tmp_path / LOG).read_bytes()
    model = line(seed=3)
    assert_same(fit(model, killed_at(11), CONFIG, tmp_path), model, tmp_path, unbroken)
    assert ((tmp_path / CHECKPOINT).read_bytes(), (tmp_path / LOG).read_bytes()) == before


def test_training_learns_and_logs(tmp_path) -> None:
    reports: dict[int, dict[str, float]] = {}
    fit(
        line(),
        batch,
        dataclasses.replace(CONFIG, steps=240, log_every=40),
        tmp_path,
        report=reports.__setitem__,
    )
    lines = log(tmp_path)
    assert [entry["step"] for entry in lines] == list(reports) == [40, 80, 120, 160, 200, 240]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[0].keys() == {"step", "rate", "loss", "gradient", "error", "odd"}
    assert lines[0]["error"] == lines[0]["loss"] == pytest.approx(reports[40]["loss"], abs=1e-5)


def test_groups_learn_at_their_own_rate(tmp_path) -> None:
    model = line()
    for group in (groups := model.parameter_groups()):
        group["factor"] = float(group["params"][0] is model.fast.weight)
    model.parameter_groups = lambda: groups
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, batch, dataclasses.replace(CONFIG, steps=2), tmp_path)
    assert torch.equal(model.slow.weight, before["slow.weight"])
    assert not torch.equal(model.fast.weight, before["fast.weight"])


def test_a_save_that_was_interrupted_leaves_the_checkpoint_before(tmp_path, unbroken, monkeypatch) -> None:
    with pytest.raises(Killed):
        fit(line(), killed_at(5), CONFIG, tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def half(state, file) -> None:
        file.write(b"half of it")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.torch, "save", half)
        with pytest.raises(Killed):
            fit(line(), batch, CONFIG, tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    model = line(seed=5)
    assert_same(fit(model, batch, CONFIG, tmp_path), model, tmp_path, unbroken)


def test_a_log_whose_last_line_was_cut_by_a_kill_is_mended(tmp_path, unbroken) -> None:
    with pytest.raises(Killed):
        fit(line(), killed_at(7), CONFIG, tmp_path)
    with (tmp_path / LOG).open("a") as file:
        file.write('{"step": 9, "seco')
    model = line()
    assert_same(fit(model, batch, CONFIG, tmp_path), model, tmp_path, unbroken)


def test_a_log_without_a_checkpoint_is_of_another_run(tmp_path, unbroken) -> None:
    (tmp_path / LOG).write_text('{"step": 400}\n')
    model = line()
    assert_same(fit(model, batch, CONFIG, tmp_path), model, tmp_path, unbroken)


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "flipped"])
def test_a_checkpoint_that_cannot_be_read_is_refused(tmp_path, unbroken, damage: str) -> None:
    data = bytearray((unbroken[2] / CHECKPOINT).read_bytes())
    weight = torch.load(unbroken[2] / CHECKPOINT, weights_only=True)["average"]["fast.weight"]
    match damage:
        case "empty":
            data.clear()
        case "garbage":
            data[:] = b"not a checkpoint"
        case "cut":
            del data[len(data) // 2 :]
        case "flipped":
            data[data.index(weight.numpy().tobytes()) + 5] ^= 1
    (tmp_path / CHECKPOINT).write_bytes(data)
    with pytest.raises(IntegrityError, match=rf"{CHECKPOINT} cannot be read .* remove it to start again"):
        fit(line(), batch, CONFIG, tmp_path)


def test_a_checkpoint_of_another_model_is_refused(tmp_path, unbroken) -> None:
    (tmp_path / CHECKPOINT).write_bytes((unbroken[2] / CHECKPOINT).read_bytes())
    with pytest.raises(ConfigError, match="belongs to another model"):
        fit(line(width=4), batch, CONFIG, tmp_path)
    for other in ({"step": 3}, [1, 2]):
        torch.save(other, tmp_path / CHECKPOINT)
        with pytest.raises(ConfigError, match="belongs to another model"):
            fit(line(), batch, CONFIG, tmp_path)


def test_a_loss_that_is_not_finite_is_refused_and_nothing_of_it_is_saved(tmp_path) -> None:
    with pytest.raises(SmaltiError, match="the loss is nan at step 5"):
        fit(line(bad_at=5), batch, CONFIG, tmp_path)
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["objective"].values())


def test_weights_are_averaged_faster_in_the_first_steps() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = Average(model, 0.5)
    model.weight.data.fill_(1.0)
    expected = 0.0
    for step in range(30):
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
        assert average.weights["weight"].item() == pytest.approx(expected)
    assert model.weight.item() == 1


def test_the_rate_warms_up_stays_and_falls_to_zero() -> None:
    config = LoopConfig(steps=20, learning_rate=2.0, warmup=4, cooldown=5)
    rates = [config.rate(step) for step in range(20)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert set(rates[3:16]) == {2.0}
    assert rates[16:] == pytest.approx([1.6, 1.2, 0.8, 0.4])
    assert config.rate(20) == 0
    assert LoopConfig(steps=5, learning_rate=2.0, warmup=0).rate(4) == 2.0


def test_one_process_can_train_in_several_precisions(tmp_path) -> None:
    """A tokenizer in bfloat16 is followed by its context model in float32."""
    found = {}
    for precision in ("bf16", "no"):
        config = dataclasses.replace(CONFIG, precision=precision)
        found[precision] = fit(line(), batch, config, tmp_path / precision)["fast.weight"]
        assert found[precision].dtype == torch.float32
    assert not torch.equal(found["bf16"], found["no"])
    torch.testing.assert_close(found["bf16"], found["no"], rtol=0, atol=0.05)
    with pytest.raises(ConfigError, match="no precision 'fp16': did you mean 'bf16'"):
        LoopConfig(steps=1, precision="fp16")


def test_the_gradient_is_clipped(tmp_path) -> None:
    config = dataclasses.replace(CONFIG, steps=1, clip=1e-3)
    seen: list[float] = []
    model = line()
    step = torch.optim.AdamW.step

    def watching(self, *arguments, **options):
        norms = [p.grad.square().sum() for group in self.param_groups for p in group["params"]]
        seen.append(math.sqrt(sum(norms)))
        return step(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watching)
        fit(model, batch, config, tmp_path)
    assert seen == pytest.approx([1e-3], rel=1e-2)
    assert log(tmp_path)[0]["gradient"] > 1e-2


def test_a_cosine_falls_from_the_end_of_the_warm_up_to_zero() -> None:
    config = LoopConfig(steps=24, learning_rate=2.0, warmup=4, schedule="cosine")
    rates = [config.rate(step) for step in range(25)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[14] == pytest.approx(1.0)
    assert rates[9] == pytest.approx(1 + math.cos(math.pi / 4))
    assert rates[24] == pytest.approx(0)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[4:]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "cosin"}, "no schedule 'cosin': did you mean 'cosine'"),
        ({"schedule": "cosine", "cooldown": 3}, "no cooldown"),
        ({"accumulate": 0}, "accumulate is 0: 1 is the least"),
        ({"log_every": 0}, "log_every is 0"),
    ],
)
def test_a_loop_that_cannot_run_is_refused(options, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LoopConfig(**{"steps": 5, **options})


class Mean(Objective):
    """The distance of one weight from the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, batch: dict[str, Tensor]) -> Loss:
        return Loss((self.weight - batch["x"].mean(0)).square().sum(), {})

    def samples(self, batch: dict[str, Tensor]) -> Tensor:
        assert not self.training
        return torch.stack([batch["x"].mean().sigmoid().expand(3, 4, 6), torch.ones(3, 4, 6)])[None]


def test_accumulated_batches_are_one_large_batch(tmp_path) -> None:
    def large(step: int, seed: int) -> dict[str, Tensor]:
        return {"x": torch.cat([batch(3 * step + part, seed)["x"] for part in range(3)])}

    config = dataclasses.replace(CONFIG, clip=100.0)
    whole = fit(Mean(), large, config, tmp_path / "whole")
    parts = fit(Mean(), batch, dataclasses.replace(config, accumulate=3), tmp_path / "parts")
    torch.testing.assert_close(parts["weight"], whole["weight"], rtol=0, atol=1e-6)
    assert parts["weight"].any()
    lines = [log(tmp_path / name) for name in ("whole", "parts")]
    for entry, other in zip(*lines, strict=True):
        assert entry["gradient"] == pytest.approx(other["gradient"], abs=2e-5)
        assert entry["loss"] < other["loss"]  # smaller batches scatter more


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_after_the_step_in_hand_and_the_run_goes_on_from_there(
    tmp_path, unbroken, number: signal.Signals
) -> None:
    def signalled(step: int, seed: int) -> dict[str, Tensor]:
        if step == 5:
            os.kill(os.getpid(), number)
        return batch(step, seed)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        fit(line(), signalled, CONFIG, tmp_path)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 6
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    model = line(seed=4)
    assert_same(fit(model, batch, CONFIG, tmp_path), model, tmp_path, unbroken)


def test_the_second_signal_ends_at_once() -> None:
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.asked
        assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_outside_the_main_thread_signals_are_left_alone(tmp_path, unbroken) -> None:
    model = line()
    with ThreadPoolExecutor(1) as pool:
        average = pool.submit(fit, model, batch, CONFIG, tmp_path).result()
    assert_same(average, model, tmp_path, unbroken)


def test_sheets_of_samples_are_drawn(tmp_path) -> None:
    fit(Mean(), batch, dataclasses.replace(CONFIG, samples_every=4), tmp_path)
    sheets = sorted((tmp_path / SAMPLES).iterdir())
    assert [sheet.name for sheet in sheets] == ["000004.png", "000008.png", "000011.png"]
    with Image.open(sheets[1]) as sheet:
        assert sheet.size == (12, 4)
        wanted = round(float(batch(7, CONFIG.seed)["x"].mean().sigmoid()) * 255)
        assert sheet.getpixel((0, 0)) == pytest.approx((wanted,) * 3, abs=1)
        assert sheet.getpixel((6, 0)) == (255, 255, 255)


def test_an_objective_without_pictures_draws_none(tmp_path) -> None:
    fit(line(), batch, dataclasses.replace(CONFIG, samples_every=4), tmp_path)
    assert not (tmp_path / SAMPLES).exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_curves_hold_what_the_log_holds(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = dataclasses.replace(CONFIG, tensorboard=True)
    with pytest.raises(Killed):
        fit(line(), killed_at(7), config, tmp_path)
    fit(line(), batch, config, tmp_path)
    curves = EventAccumulator(str(tmp_path / CURVES))
    curves.Reload()
    found = [(event.step, event.value) for event in curves.Scalars("loss")]
    assert [step for step, _ in found] == [entry["step"] for entry in log(tmp_path)]
    assert [v for _, v in found] == pytest.approx([entry["loss"] for entry in log(tmp_path)], abs=2e-5)
