"""Causal convolutions in parts, against their own whole and against a plain padded convolution."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import ConfigError
from smalti.nn.causal_conv import CausalConv3d, begins, in_parts

KERNELS = [(1, 1, 1), (1, 3, 3), (2, 3, 3), (3, 3, 3), (3, 1, 1), (5, 3, 1)]


def layer(kernel: tuple[int, int, int], stride: int, time_pad: str, edges: str) -> CausalConv3d:
    return CausalConv3d(2, 3, kernel, (stride, 1, 1), time_pad, edges=edges).eval()


def plain(conv: CausalConv3d, x: Tensor, time_pad: str, edges: str) -> Tensor:
    modes = {"zeros": "constant", "repeat": "replicate"}
    frames, rows, columns = (side - 1 for side in conv.kernel_size)
    x = F.pad(x, (0, 0, 0, 0, frames, 0), mode=modes[time_pad])
    x = F.pad(x, (columns // 2, columns // 2, rows // 2, rows // 2, 0, 0), mode=modes[edges])
    return F.conv3d(x, conv.weight, conv.bias, conv.stride)


@pytest.mark.parametrize(("time_pad", "edges"), list(itertools.product(("zeros", "repeat"), repeat=2)))
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_whole_is_a_padded_convolution(kernel, time_pad, edges) -> None:
    x = torch.randn(2, 2, 6, 5, 4)
    conv = layer(kernel, 1, time_pad, edges)
    torch.testing.assert_close(conv(x), plain(conv, x, time_pad, edges))


@pytest.mark.parametrize("time_pad", ["zeros", "repeat"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_parts_equal_the_whole(kernel, stride, time_pad) -> None:
    if kernel[0] < stride:
        with pytest.raises(ConfigError, match="skips"):
            layer(kernel, stride, time_pad, "zeros")
        return
    x = torch.randn(1, 2, 1 + 6 * stride, 3, 4)
    conv = layer(kernel, stride, time_pad, "zeros")
    whole = conv(x)
    for cut in ([1, 6], [1, 1, 1, 1, 1, 1, 1], [3, 2, 2], [1, 4, 2]):
        sizes = [1 + (cut[0] - 1) * stride, *(size * stride for size in cut[1:])]
        state = {}
        parts = [conv(part, state) for part in x.split(sizes, 2)]
        torch.testing.assert_close(torch.cat(parts, 2), whole)


def test_no_output_depends_on_a_later_frame() -> None:
    conv = layer((3, 3, 3), 1, "zeros", "zeros")
    x = torch.randn(1, 2, 6, 4, 4)
    changed = x.clone()
    changed[:, :, 4:] += 1
    one, other = conv(x), conv(changed)
    assert torch.equal(one[:, :, :4], other[:, :, :4])
    assert not torch.equal(one[:, :, 4], other[:, :, 4])


def test_two_layers_keep_their_pasts_apart() -> None:
    first, second = (layer((3, 1, 1), 1, "zeros", "zeros") for _ in range(2))
    x, state = torch.randn(1, 2, 4, 2, 2), {}
    first(x, state)
    torch.testing.assert_close(second(x, state), second(x))


def test_a_layer_begins_once_a_state() -> None:
    conv, state = layer((1, 1, 1), 1, "zeros", "zeros"), {}
    assert [begins(conv, None), begins(conv, state), begins(conv, state)] == [True, True, False]


@pytest.mark.parametrize(
    ("length", "head", "sizes"), [(7, 1, [1, 2, 2, 2]), (6, 0, [2, 2, 2]), (1, 1, [1]), (4, 1, [1, 2, 1])]
)
def test_parts_are_cut_behind_the_head(length, head, sizes) -> None:
    seen = []

    def double(part: Tensor) -> Tensor:
        seen.append(part.shape[1])
        return part * 2

    x = torch.randn(2, length)
    assert torch.equal(in_parts(double, x, axis=1, head=head, size=2), x * 2)
    assert seen == sizes
