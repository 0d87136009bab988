"""Video Swin: sizes, windows that shrink, pairs that are kept apart, gradients; against torchvision's."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from smalti.errors import ConfigError
from smalti.nn.flops import count_flops
from smalti.nn.video_swin import (
    VIDEO_SWIN,
    ShrinkingAttention,
    VideoSwin,
    VideoSwinConfig,
    VideoSwinStage,
    cut_of,
)

TINY = VideoSwinConfig(dim=8, depths=(2, 2), heads=(2, 4), window=(2, 3, 3))


@pytest.mark.parametrize("size", [(1, 8, 8), (2, 17, 23), (5, 40, 9), (8, 32, 32)])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_every_size_gives_the_promised_grid(size, stride) -> None:
    config = dataclasses.replace(TINY, time_stride=stride)
    maps = VideoSwin(config).eval()(torch.randn(2, 3, *size))
    assert maps.shape == (2, *config.grid(*size), 16)
    assert maps.shape[1] == -(-size[0] // stride)
    assert config.stride == (stride, 8, 8)


def test_windows_are_cut_to_the_map_and_then_do_not_shift() -> None:
    cut = cut_of((4, 7, 15), (8, 7, 7))
    assert (cut.side, cut.shift, cut.padded) == ((4, 7, 7), (0, 0, 3), (4, 7, 21))


@torch.no_grad()
def test_a_smaller_window_takes_the_corner_of_the_table() -> None:
    attention = ShrinkingAttention(4, 1, (2, 2, 2))
    attention.qkv.weight.zero_()
    attention.qkv.bias.zero_()
    attention.qkv.weight[8:] = torch.eye(4)
    attention.proj.weight.copy_(torch.eye(4))
    attention.proj.bias.zero_()
    torch.nn.init.normal_(attention.bias.table)
    windows = torch.randn(3, 4, 4)
    corner = attention.bias()[0, 0, :4, :4].softmax(-1)
    torch.testing.assert_close(attention.within(windows), corner @ windows)


@torch.no_grad()
def test_pairs_that_may_not_meet_do_not_and_one_mask_serves_all_samples() -> None:
    attention = ShrinkingAttention(8, 2, (1, 2, 2))
    windows = torch.randn(6, 4, 8)
    allowed = torch.eye(4, dtype=torch.bool).repeat(3, 1, 1)
    allowed[1] = True
    out = attention.within(windows, allowed)
    alone = attention.within(windows[:, :1], torch.ones(3, 1, 1, dtype=torch.bool))
    torch.testing.assert_close(out[[0, 2, 3, 5], :1], alone[[0, 2, 3, 5]])
    torch.testing.assert_close(out[[1, 4]], attention.within(windows[[1, 4]]))


@torch.no_grad()
def test_a_shift_does_not_join_opposite_edges() -> None:
    config = dataclasses.replace(TINY, window=(1, 4, 4), depths=(2,), heads=(2,))
    stage = VideoSwinStage(config, 0, (0.0, 0.0)).eval()
    for block in stage.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight)
    maps = torch.randn(1, 1, 8, 8, 8)
    changed = maps.clone()
    changed[:, :, 0, 0] += 1
    differs = (stage(maps) - stage(changed)).abs().amax(-1)[0, 0] > 1e-7
    assert differs[5, 5]  # the shifted window in the middle hands it on
    assert not differs[6:].any()
    assert not differs[:, 6:].any()


@torch.no_grad()
def test_the_encoder_is_torchvisions() -> None:
    video = pytest.importorskip("torchvision.models.video.swin_transformer")
    theirs = video.SwinTransformer3d([2, 4, 4], 8, [2, 2], [2, 4], [2, 3, 3], num_classes=3).eval()
    state = {}
    for name, tensor in theirs.state_dict().items():
        if name.startswith("head.") or name.endswith("index"):
            continue
        name = name.replace("patch_embed.proj", "patch").replace("patch_embed.norm", "patch_norm")
        name = name.replace("features.0.", "stages.0.blocks.").replace("features.1.", "stages.0.merge.")
        name = name.replace("features.2.", "stages.1.blocks.").replace("mlp.0.", "mlp.fc1.")
        state[name.replace("mlp.3.", "mlp.fc2.").replace("relative_position_bias_table", "bias.table")] = (
            tensor
        )
    ours = VideoSwin(TINY).eval()
    ours.load_state_dict(state | {k: v for k, v in ours.state_dict().items() if k.endswith("index")})
    x = torch.randn(2, 3, 8, 36, 48)
    expected = theirs.norm(theirs.features(theirs.pos_drop(theirs.patch_embed(x))))
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_sizes_of_the_published_encoders() -> None:
    """Parameters in millions without the head, and GFLOPs, of 32 frames of 224 × 224."""
    model = VideoSwin(VIDEO_SWIN["tiny"])
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions + 0.769 * 0.4 == pytest.approx(28.2, rel=0.02)
    with torch.no_grad():
        cost = count_flops(model.to("meta"), torch.zeros(1, 3, 32, 224, 224, device="meta"))
    assert cost / 1e9 == pytest.approx(88, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head", "millions"), [("small", 768, 49.8), ("base", 1024, 88.1)])
def test_sizes_of_the_larger_published_encoders(name, head, millions) -> None:
    count = sum(p.numel() for p in VideoSwin(VIDEO_SWIN[name]).parameters())
    assert (count + 400 * head) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("changes", [{"heads": (2,)}, {"heads": (3, 4)}, {"time_stride": 3}])
def test_sizes_that_do_not_fit_are_refused(changes) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(TINY, **changes)


def test_everything_learned_gets_a_gradient() -> None:
    model = VideoSwin(dataclasses.replace(TINY, drop_path=0.0))
    model(torch.randn(1, 3, 6, 32, 32)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_paths_are_dropped_in_training_alone() -> None:
    model = VideoSwin(dataclasses.replace(TINY, drop_path=0.9))
    x = torch.randn(16, 3, 4, 16, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
