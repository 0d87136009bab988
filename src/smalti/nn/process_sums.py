"""Sums and gatherings over all processes of a training; with one process, the input itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, distributed


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_of_processes(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient."""
    total = tensor.detach()
    if processes() > 1:
        total = total.clone()
        distributed.all_reduce(total)
    return total


def rows_of_processes(rows: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """The rows of all processes in order of rank, however many each holds, without gradient."""
    rows = rows.detach().contiguous()
    if processes() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(processes())]
    distributed.all_gather(counts, count)
    longest = max(int(n) for n in counts)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), rows.shape[1])])
    gathered = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(gathered, padded)
    return torch.cat([part[: int(n)] for part, n in zip(gathered, counts, strict=True)])


def mean_over_processes(total: Float[Tensor, "*shape"], count: int) -> Float[Tensor, "*shape"]:
    """`total / count` where both are summed over all processes.

    The gradient is that of the local part, scaled so that averaging gradients over processes, as
    data-parallel training does, gives the gradient of one process that holds everything.
    """
    if processes() == 1:
        return total / max(count, 1)
    counted = sum_of_processes(total.new_tensor(float(count))).clamp(min=1)
    local = (total - total.detach()) * processes()
    return (sum_of_processes(total) + local) / counted
