from __future__ import annotations

import pytest
import torch

from smalti.codec.context import KINDS, ContextCoder
from smalti.training.context import ContextObjective
from smalti.training.sources.crops import CropConfig, Crops
from smalti.training.sources.latents import ContextSamples
from tests.tokenizers.tiny import tiny_mosaic
from tests.training import made


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> ContextSamples:
    root = tmp_path_factory.mktemp("corpus")
    config = CropConfig(
        pictures=2, clips=2, crop=16, frames=9, sides=(60,), clip_side=36, segment=9, every=0.0
    )
    tokenizer = tiny_mosaic()
    tokenizer.still.copy_(torch.tensor([0, 1, -1, 3, 2, -1]))
    return ContextSamples(tokenizer, Crops(config, made.photos(root), made.clips(root)), batches=4)


def test_samples_take_every_kind_and_stage_in_turn(samples: ContextSamples) -> None:
    quantizer = samples.tokenizer.quantizer
    seen = []
    for step in range(3 * quantizer.depth):
        batch = samples.batch(step)
        kind, stage = int(batch["kind"]), int(batch["stage"])
        seen.append((kind, stage))
        assert batch["new"].shape == (2, 2, 2, quantizer.dim)
        opened = quantizer.config.opened[stage]
        assert not batch["new"][..., opened:].any()
        if stage == 0:
            assert not batch["old"].any()
        unit = 2 ** (quantizer.depth - 1 - stage)
        assert ((batch["new"] - batch["old"]) % unit == 0).all()
        assert batch["past"].any() == (KINDS[kind] == "next")
    assert sorted(seen) == [(kind, stage) for kind in range(3) for stage in range(quantizer.depth)]
    assert torch.equal(samples.batch(5)["new"], samples.batch(5)["new"])
    assert any(
        not torch.equal(samples.batch(5, seed)["new"], samples.batch(5)["new"]) for seed in range(1, 9)
    )


def test_the_past_of_a_first_clip_grid_is_what_the_coder_makes_of_the_picture(
    samples: ContextSamples,
) -> None:
    model = samples.tokenizer
    coder = ContextCoder(model.quantizer, ContextObjective(model.quantizer, 8).arrays(model.still))
    latents = [model.quantizer.half_steps(grid) for grid in samples.clips.long().unbind(1)]
    wanted = {tuple(coder._past(clip.numpy(), from_picture=True).ravel()) for clip in latents[0]}
    wanted |= {tuple(clip.numpy().ravel()) for clip in latents[1]}
    last = len(KINDS) * (model.quantizer.depth - 1) + KINDS.index("next")
    for turn in range(6):
        step = last + turn * len(KINDS) * model.quantizer.depth
        assert {tuple(past.numpy().ravel()) for past in samples.batch(step)["past"]} <= wanted


def test_pictures_alone_are_enough(samples: ContextSamples, tmp_path) -> None:
    config = CropConfig(pictures=2, clips=0, crop=16, sides=(60,))
    alone = ContextSamples(samples.tokenizer, Crops(config, made.photos(tmp_path)), batches=1)
    depth = samples.tokenizer.quantizer.depth
    batches = [alone.batch(step) for step in range(depth)]
    assert [(int(batch["kind"]), int(batch["stage"])) for batch in batches] == [(0, k) for k in range(depth)]
