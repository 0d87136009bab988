from __future__ import annotations

import torch

from smalti.nn.frame_and_tubes import VideoPatches, VideoPixels


def test_patches_and_pixels_are_laid_the_same_way() -> None:
    pixels, back = torch.rand(1, 3, 5, 4, 6), VideoPixels(24, 2, 2)
    patches = VideoPatches(24, 2, 2, pixel_norm=False)
    for embedding, linear in ((patches.first, back.first), (patches.rest, back.rest)):
        embedding.out = torch.nn.Identity()
        for layer in (embedding.linear, linear):
            torch.nn.init.eye_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    tokens = patches(pixels)
    assert tokens.shape == (1, 3, 2, 3, 24)
    torch.testing.assert_close(back(tokens), pixels)


def test_only_the_beginning_has_a_first_frame() -> None:
    pixels = torch.rand(1, 3, 5, 4, 4)
    patches, back = VideoPatches(8, 2, 2, True), VideoPixels(8, 2, 2)
    state, whole = {}, patches(pixels)
    parts = [patches(part, state) for part in pixels.split([1, 2, 2], 2)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    state = {}
    frames = [back(part, state) for part in whole.split(1, 1)]
    assert [part.shape[2] for part in frames] == [1, 2, 2]
    torch.testing.assert_close(torch.cat(frames, 2), back(whole))


def test_a_norm_over_pixels_takes_brightness_off() -> None:
    dark, light = torch.full((1, 3, 1, 2, 2), 0.25), torch.full((1, 3, 1, 2, 2), 0.5)
    normed, plain = VideoPatches(8, 2, 2, True), VideoPatches(8, 2, 2, False)
    torch.testing.assert_close(normed(dark), normed(light))
    assert (plain(dark) - plain(light)).abs().max() > 0.01
