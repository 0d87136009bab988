"""Convolution over time that sees no later frame, whole or part by part.

```
x [b c t h w] ─► past frames in front ─► conv ─► [b d t/stride h w]
                    ▲        └─ the last ones are kept in `state` for the next part
       zeros or the first frame again, where nothing came before
```
A `State` is a plain dictionary: every layer keeps what it needs from the past under itself. A whole pass is a
pass whose state begins empty and is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import ConfigError

State = dict[Any, Any]
Pad = Literal["zeros", "repeat"]


class CausalConv3d(nn.Conv3d):
    """A convolution over time and space, padded in front in time and on both sides in space.

    Args:
        channels: that come in.
        out: channels that go out.
        kernel: frames, rows, columns.
        stride: frames, rows, columns; the frames of every part but the first are a multiple of the first.
        time_pad: what stands before the first frame.
        space_pad: rows and columns added on every side; those that keep the size when not given.
        edges: what stands in these rows and columns: zeros, or the border again.
        bias: whether there is one.

    Raises:
        ConfigError: a kernel of fewer frames than the stride, which would skip frames.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
        time_pad: Pad = "zeros",
        space_pad: tuple[int, int] | None = None,
        edges: Pad = "zeros",
        bias: bool = True,
    ) -> None:
        if kernel[0] < stride[0]:
            raise ConfigError(f"a kernel of {kernel[0]} frames skips some at a stride of {stride[0]}")
        rows, columns = space_pad if space_pad is not None else (kernel[1] // 2, kernel[2] // 2)
        super().__init__(
            channels,
            out,
            kernel,
            stride,
            (0, rows, columns),
            bias=bias,
            padding_mode="replicate" if edges == "repeat" else "zeros",
        )
        self.time_pad = time_pad

    def forward(self, x: Float[Tensor, "b c t h w"], state: State | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next part's output; of the whole when no state is given."""
        before = self.kernel_size[0] - 1
        past = None if state is None else state.get(self)
        if past is not None:
            x = torch.cat([past, x], 2)
        elif before and self.time_pad == "repeat":
            x = torch.cat([x[:, :, :1].expand(-1, -1, before, -1, -1), x], 2)
        elif before:
            x = F.pad(x, (0, 0, 0, 0, before, 0))
        if state is not None and before:
            state[self] = x[:, :, x.shape[2] - self.kernel_size[0] + self.stride[0] :].clone()
        return super().forward(x)


def begins(layer: nn.Module, state: State | None) -> bool:
    """Whether this is the layer's first part, which from now on it no longer is."""
    if state is None:
        return True
    first = layer not in state
    state[layer] = True
    return first


def in_parts(function: Callable[[Tensor], Tensor], whole: Tensor, axis: int, head: int, size: int) -> Tensor:
    """What `function` gives for all parts of a sequence, joined: first `head` if not 0, then `size` each.

    The same parts are cut however a stream hands them over, so streamed and whole agree to the last bit, and
    memory does not grow with length.
    """
    length = whole.shape[axis]
    head = min(head, length)
    rest = whole.narrow(axis, head, length - head)
    parts = [whole.narrow(axis, 0, head)] if head else []
    if length > head:
        parts += rest.split(size, axis)
    return torch.cat([function(part) for part in parts], axis)
