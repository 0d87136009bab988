from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.codec.context import (
    INPUT_LIMIT,
    ContextCoder,
    array_shapes,
    channel_groups,
    checkerboard,
    coding_passes,
)
from smalti.errors import ConfigError, FormatError
from smalti.quantizers.residual_fsq import ResidualFSQ, ResidualFSQConfig
from smalti.training.context import ContextObjective

QUANTIZER = ResidualFSQ(ResidualFSQConfig(opened=(3, 7, 7), limits=(2, 3, 0), first_limit=4))
STILL = torch.tensor([0, 2, -1, 1, -1, 4, 6])
EXAMPLES = settings(deadline=None, max_examples=20)


def trained(seed: int = 0) -> ContextObjective:
    """Random networks: narrow distributions for pictures, wide ones where a clip starts."""
    torch.manual_seed(seed)
    objective = ContextObjective(QUANTIZER, hidden=8)
    for kind, scale in (("picture", 14.0), ("start", 34.0), ("next", 26.0)):
        for stage, network in enumerate(objective.networks[kind]):
            for weight in (network.here, network.before, network.middle):
                torch.nn.init.normal_(weight, std=0.3)
            torch.nn.init.normal_(network.leave, std=0.1)
            torch.nn.init.normal_(network.follow, std=0.03)
            network.leave_bias.data[network.count :] = scale + 5 * stage  # half steps halve with every stage
    return objective


OBJECTIVE = trained()
ARRAYS = OBJECTIVE.arrays(STILL)
CODER = ContextCoder(QUANTIZER, ARRAYS)


def typical(shape: tuple[int, int, int], spread: float, seed: int = 0) -> np.ndarray:
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(*shape, QUANTIZER.dim, generator=random) * spread
    return QUANTIZER.ids(z).numpy()


def any_ids(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Ids in range, also such as no latent has."""
    return np.random.default_rng(seed).integers(0, QUANTIZER.codebook_sizes, (*shape, QUANTIZER.stages[-1]))


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))


@EXAMPLES
@given(SHAPES, st.integers(0, 1 << 30), st.booleans())
def test_ids_come_back_and_any_first_stages_decode(shape, seed: int, natural: bool) -> None:
    ids = typical(shape, 3.0, seed) if natural else any_ids(shape, seed)
    stages = QUANTIZER.stages
    streams = CODER.encode(ids, stages)
    assert len(streams) == len(stages)
    for count in range(1, len(stages) + 1):
        back = CODER.decode(streams[:count], shape, stages[:count])
        assert np.array_equal(back, ids[..., : stages[count - 1]])
        assert CODER.encode(ids[..., : stages[count - 1]], stages[:count]) == streams[:count]


@pytest.mark.parametrize(("spread", "kind"), [(0.3, 0), (6.0, 1)])
def test_the_first_frame_takes_the_kind_that_needs_fewer_bytes(spread: float, kind: int) -> None:
    ids = typical((3, 6, 6), spread)
    streams = CODER.encode(ids, QUANTIZER.stages)
    assert streams[0][0] == kind
    assert np.array_equal(CODER.decode(streams, (3, 6, 6), QUANTIZER.stages), ids)


@pytest.mark.parametrize("spread", [0.3, 6.0])
def test_coded_bytes_are_what_the_float_twin_promises(spread: float) -> None:
    shape = (3, 22, 21)
    ids = typical(shape, spread)
    streams = CODER.encode(ids, QUANTIZER.stages)
    kind = streams[0][0]
    with torch.no_grad():
        bits = [promised(torch.from_numpy(ids), kind, stage) for stage in range(len(streams))]
    assert 8 * sum(map(len, streams)) == pytest.approx(sum(bits), rel=0.02)
    for stream, wanted in zip(
        streams, bits, strict=True
    ):  # a constant stage feels that rows are whole numbers
        assert 8 * len(stream) == pytest.approx(wanted, rel=0.06, abs=80)


def promised(ids: torch.Tensor, kind: int, stage: int) -> float:
    """Bits of a stage by the networks in floats."""
    bounds = (0, *QUANTIZER.stages)
    new = QUANTIZER.half_steps(ids[..., : bounds[stage + 1]])
    old = QUANTIZER.half_steps(ids[..., : bounds[stage]]) if stage else torch.zeros_like(new)
    boards = [len(rows) for rows, _ in checkerboard(*ids.shape[1:3])]
    total = 0.0
    for frame in range(len(ids)):
        past = new[frame - 1] if frame else torch.zeros_like(new[0])
        if frame == 1 and kind == 0:
            past = torch.where(STILL >= 0, 2 * past[..., STILL.clamp(min=0)], 0)
        name = "next" if frame else ("picture", "start")[kind]
        for number, (_, colour) in enumerate(coding_passes(QUANTIZER.config.opened[stage])):
            bits = OBJECTIVE.bits(name, stage, number, old[frame][None], new[frame][None], past[None])
            total += float(bits) * boards[colour]
    return total


def test_a_context_pays() -> None:
    """A still clip's later frames cost less than its first, once networks look at the frame before."""
    objective = ContextObjective(QUANTIZER, hidden=8)
    optimizer = torch.optim.Adam(objective.parameters(), 0.02)
    frame = typical((1, 8, 8), 2.0)
    new = QUANTIZER.half_steps(torch.from_numpy(frame)[..., : QUANTIZER.stages[0]])
    batch = {"old": torch.zeros_like(new), "new": new, "past": new}
    batch |= {"kind": torch.tensor(2), "stage": torch.tensor(0)}
    before = objective(batch).total.item()
    for _ in range(30):
        objective(batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert objective(batch).total.item() < 0.8 * before


def test_wrong_bytes_are_refused_or_give_other_ids_and_never_crash() -> None:
    shape, stages = (1, 2, 2), QUANTIZER.stages[:2]
    ids = typical(shape, 3.0)[..., : stages[-1]]
    whole = CODER.encode(ids, stages)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        streams = list(whole)
        index = int(random.integers(len(streams)))
        data = bytearray(streams[index])
        match int(random.integers(4)):
            case 0:
                data[random.integers(len(data))] ^= 1 << int(random.integers(8))
            case 1:
                del data[random.integers(len(data)) :]
            case 2:
                data += random.bytes(int(random.integers(1, 9)))
            case _:
                data = bytearray(random.bytes(len(data)))
        streams[index] = bytes(data)
        try:
            back = CODER.decode(streams, shape, stages)
        except FormatError:
            refused += 1
        else:
            assert back.shape == ids.shape
            assert ((back >= 0) & (back < QUANTIZER.codebook_sizes[: stages[-1]])).all()
    assert 200 < refused < 1000


@pytest.mark.parametrize(
    ("streams", "words"),
    [
        ([], "kind of its first frame"),
        ([b"", b""], "kind of its first frame"),
        ([b"\x02", b""], "kind of its first frame"),
        ([b"\x00", b"abc"], "4 bytes each, found 3"),
        ([b"\x00"], "2 stages take as many byte strings, found 1"),
    ],
)
def test_byte_strings_of_a_wrong_form_are_refused(streams: list[bytes], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        CODER.decode(streams, (1, 1, 1), QUANTIZER.stages[:2])


def test_words_after_the_last_code_are_refused() -> None:
    streams = CODER.encode(typical((1, 3, 3), 2.0), QUANTIZER.stages)
    streams[1] += bytes(8)
    with pytest.raises(FormatError, match="go on after the last code"):
        CODER.decode(streams, (1, 3, 3), QUANTIZER.stages)


@pytest.mark.parametrize("name", ["passes", "middle_bias", "leave_bias", "here"])
def test_weights_too_large_for_exact_sums_are_refused(name: str) -> None:
    key = f"next_1_{name}"
    huge = np.full_like(ARRAYS[key], 0, np.int64) + (1 << 24)
    with pytest.raises(ConfigError, match="too large for exact sums"):
        ContextCoder(QUANTIZER, {**ARRAYS, key: huge})


def test_inputs_larger_than_sums_allow_are_refused() -> None:
    compand = ARRAYS["compand"].copy()
    compand[-1] = INPUT_LIMIT + 1
    with pytest.raises(ConfigError, match="inputs of the context model reach 32"):
        ContextCoder(QUANTIZER, {**ARRAYS, "compand": compand})


def test_the_arrays_have_the_shapes_that_are_announced() -> None:
    shapes = array_shapes(QUANTIZER, 8)
    assert shapes.keys() == ARRAYS.keys()
    for name, (shape, dtype) in shapes.items():
        assert ARRAYS[name].shape == shape, name
        assert torch.from_numpy(ARRAYS[name]).dtype == dtype, name


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 96])
def test_passes_visit_every_channel_at_every_position_once(count: int) -> None:
    visits = np.zeros((5, 4, count), int)
    for channels, colour in coding_passes(count):
        rows, columns = checkerboard(5, 4)[colour]
        visits[rows, columns, channels.start : channels.stop] += 1
    assert (visits == 1).all()
    assert [c for group in channel_groups(count) for c in group] == list(range(count))


CHILD = """
import json, sys
import numpy as np
from smalti.codec.context import ContextCoder
from smalti.quantizers.residual_fsq import ResidualFSQ, ResidualFSQConfig
data = dict(np.load(sys.argv[1]))
ids = data.pop("ids")
quantizer = ResidualFSQ(ResidualFSQConfig(opened=(3, 7, 7), limits=(2, 3, 0), first_limit=4))
coder = ContextCoder(quantizer, data)
streams = [bytes.fromhex(text) for text in json.loads(sys.argv[2])]
assert np.array_equal(coder.decode(streams, ids.shape[:3], quantizer.stages), ids)
print(json.dumps([stream.hex() for stream in coder.encode(ids, quantizer.stages)]))
"""


@pytest.mark.parametrize(
    "machine",
    [
        {"ATEN_CPU_CAPABILITY": "default", "OPENBLAS_CORETYPE": "Nehalem", "THREADS": "1"},
        {"THREADS": "2"},
    ],
    ids=["plain", "threads"],
)
def test_every_machine_writes_and_reads_the_same_bytes(tmp_path, machine: dict[str, str]) -> None:
    ids = typical((2, 9, 8), 4.0)
    np.savez(tmp_path / "case.npz", ids=ids, **ARRAYS)
    streams = json.dumps([stream.hex() for stream in CODER.encode(ids, QUANTIZER.stages)])
    threads = machine.pop("THREADS")
    machine |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "case.npz"), streams],
        env={**os.environ, **machine},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == streams
