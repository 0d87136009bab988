"""A codebook learns the same on one process and on two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from smalti.nn.process_sums import mean_over_processes, rows_of_processes
from smalti.quantizers import LFQ, VectorQuantizer

STEPS, LATENTS, CUT = 6, 90, 40
OPTIONS = {
    "ema": {},
    "restart": {"restart_below": 1.0, "init": "data", "decay": 0.5},
    "kmeans": {"init": "kmeans", "normalize": True},
}


def batches() -> torch.Tensor:
    return torch.randn(STEPS, LATENTS, 4, generator=torch.Generator().manual_seed(5))


def trained(name: str, rank: int | None) -> dict[str, torch.Tensor]:
    """The state after a few steps on the whole batch, or on this process's uneven part of it."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(codebook_size=32, dim=4, **OPTIONS[name]).train()
    part = {None: slice(None), 0: slice(CUT), 1: slice(CUT, None)}[rank]
    for batch in batches():
        quantizer(batch[part])
    return quantizer.state_dict()


def gradient(rank: int | None) -> torch.Tensor:
    """Of the entropy of all latents' mean code, for the weight that makes them."""
    weight = torch.eye(4).requires_grad_()
    half = {None: slice(None), 0: slice(45), 1: slice(45, None)}[rank]
    quantizer = LFQ(bits=4, temperature=4.0, commitment=0.0).train()
    quantizer(batches()[0, half] @ weight).loss.backward()
    return weight.grad


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {name: trained(name, rank) for name in OPTIONS} | {"gradient": gradient(rank)}
    found["rows"] = rows_of_processes(torch.full((rank + 1, 2), float(rank)))
    found["mean"] = mean_over_processes(torch.tensor([1.0 + rank]), 1 + rank)
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", OPTIONS)
def test_two_processes_learn_the_codebook_of_one(pair, name) -> None:
    alone = trained(name, None)
    assert not torch.equal(alone["codebook"], torch.zeros(32, 4))
    for key, value in alone.items():
        assert torch.equal(pair[0][name][key], pair[1][name][key]), key
        torch.testing.assert_close(pair[0][name][key], value, rtol=1e-5, atol=1e-5)


def test_averaged_gradients_of_two_processes_are_that_of_one(pair) -> None:
    torch.testing.assert_close((pair[0]["gradient"] + pair[1]["gradient"]) / 2, gradient(None))


def test_rows_come_in_order_of_rank_and_means_weigh_counts(pair) -> None:
    for found in pair:
        assert found["rows"].tolist() == [[0, 0], [1, 1], [1, 1]]
        assert found["mean"].tolist() == [1.0]
