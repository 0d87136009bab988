from __future__ import annotations

import pytest
import torch

from smalti.errors import ConfigError
from smalti.generators.larp import PRESETS, LARPGenerator
from smalti.tokenizers.larp import LARP
from smalti.tokens import Source
from tests.tokenizers.tiny_larp import TINY


def made(**changes) -> LARPGenerator:
    sizes = {"dim": 32, "depth": 2, "heads": 4, "multiple": 16, "codes": 64, "length": 6, "classes": 5}
    model = LARPGenerator(**sizes | changes).eval()
    torch.nn.init.normal_(model.lm.output.weight)  # it starts at zero
    return model


@pytest.mark.parametrize(
    ("preset", "millions"), [("S", 28), ("B", 98.4), ("L", 328), ("LP", 632), ("XL", 745)]
)
def test_official_sizes(preset: str, millions: float) -> None:
    """632 million is what is published of LP; the others follow from their widths and depths."""
    with torch.device("meta"):
        weights = sum(p.numel() for p in LARPGenerator(PRESETS[f"llama-abs-{preset}"]).parameters())
    assert weights == pytest.approx(millions * 1e6, rel=0.02)


def test_a_code_depends_on_those_before_it_alone() -> None:
    model = made()
    ids = torch.randint(64, (2, 5))
    changed = ids.clone()
    changed[:, 3:] = (ids[:, 3:] + 1) % 64
    before, after = (model(torch.tensor([1, 2]), x) for x in (ids, changed))
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("guidance", [1.0, 1.25])
def test_drawing_with_kept_keys_gives_what_whole_passes_give(guidance: float) -> None:
    model, classes = made(), torch.tensor([1, 2])
    ids = model.sample(classes, guidance=guidance, temperature=0.0).ids[..., 0]
    told, free = (model(c, ids[:, :-1]) for c in (classes, torch.full((2,), 5)))
    assert torch.equal(ids, (free + guidance * (told - free)).argmax(-1))


def test_a_clip_is_continued_from_its_codes() -> None:
    model = made(classes=0)
    condition = torch.randint(64, (2, 6))
    tokens = model.sample(condition, temperature=0.0)
    whole = model(condition, tokens.ids[:, :-1, 0])
    assert whole.shape == (2, 6, 64)
    assert torch.equal(tokens.ids[..., 0], whole.argmax(-1))


def test_what_is_drawn_decodes() -> None:
    source = Source(13, 16, 3, pad=(1, 3, 0))
    generator = torch.Generator().manual_seed(1)
    tokens = made().sample(torch.tensor([0]), top_k=8, top_p=0.9, generator=generator, source=source)
    assert LARP(**TINY).eval().decode(tokens).shape == (1, 3, 3, 13, 16)


def test_a_condition_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"classes \[b\]"):
        made().sample(torch.zeros(1, 6, dtype=torch.long))
    with pytest.raises(ConfigError, match="clip to continue"):
        made(classes=0).sample(torch.zeros(1, dtype=torch.long))
