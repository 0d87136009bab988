"""PoNet against its official mixers: of the Long Range Arena, and of the text encoder."""

from __future__ import annotations

import torch

from smalti.backbones.ponet import text_segments
from smalti.backbones.ponet_mixing import Places, PoNetBlock, PoNetMixer
from smalti.backbones.ponet_official import rename_official
from smalti.nn.granular_pooling import piece_length
from smalti.nn.strict_loading import load_strictly
from tests.golden.cases import Case, find, golden

TEXT = "*bertlayer*"


def part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def ours(weights: dict[str, torch.Tensor], home: str) -> dict[str, torch.Tensor]:
    """Weights of one layer of either layout, under the names of our block."""
    return part(rename_official({home + name: tensor for name, tensor in weights.items()}), "blocks.0.")


@golden("ponet")
@torch.no_grad()
def test_the_mixer_of_the_arena(case: Case) -> None:
    if case in find("ponet", TEXT):
        return
    about = case.config
    mixer = PoNetMixer(about["transformer_dim"], about["num_head"])
    load_strictly(mixer, part(ours(case.weights, "transformer_0.mha."), "mixer."))
    x, mask, index = (case.inputs[name] for name in ("x", "mask", "segment_index"))
    length = piece_length(x.shape[1], about["segment_num"])
    assert torch.equal(index, (torch.arange(x.shape[1]) // length).expand_as(index))
    for places in ({"segments": index}, {"pieces": about["segment_num"]}):
        case.check("y_full", mixer(x, Places(**places)))
        case.check("y_masked", mixer(x, Places(**places, mask=mask.bool())))


@golden("ponet", TEXT)
@torch.no_grad()
def test_a_layer_of_the_text_encoder(case: Case) -> None:
    about, inputs = case.config, case.inputs
    block = PoNetBlock(about["hidden"], about["heads"], about["hidden"]).eval()
    weights = ours(case.weights, "encoder.layer.0.attention.")
    block.load_state_dict(weights, strict=False)
    assert weights.keys() <= block.state_dict().keys()
    segments = text_segments(inputs["input_ids"], (101, 102))
    assert torch.equal(segments, inputs["segment_index"])
    special = inputs["special_mask"].bool() if about["clsgsepg"] else None
    places = Places(segments, mask=inputs["attention_mask"].bool(), special=special)
    case.check("mixed", block.mixer.mix(inputs["x"], places))
    case.check("y", block.attend(inputs["x"], places))
