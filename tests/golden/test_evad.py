"""EVAD against its official patch embedding, pruning blocks, token re-mapping and decoder."""

import torch

from smalti.backbones.evad import official_keys
from smalti.backbones.evad_parts import Decoder, Encoder, EVADConfig, positions
from smalti.reducers.evad import unprune
from tests.golden.cases import Case, golden


def configured(case: Case) -> EVADConfig:
    about, decoder = case.config, case.config["decoder"]
    return EVADConfig(
        dim=about["dim"],
        heads=about["heads"],
        keep_rates=tuple(map(float, about["keep_rates"])),
        enhanced_weight=float(about["enhanced_weight"]),
        patch=about["patch"],
        tubelet=about["tubelet"],
        table=tuple(about["pos_table_grid"]),
        mlp_ratio=about["mlp_ratio"],
        layer_scale=about["init_values"] or None,
        levels=(0, 0, 0, 0),
        proposals=decoder["proposals"],
        classes=decoder["classes"],
        decoder_dim=decoder["dim"],
        decoder_heads=decoder["heads"],
        decoder_depth=decoder["depth"],
        action_dim=decoder["act_fc"],
    )


def part(case: Case, prefix: str) -> dict[str, torch.Tensor]:
    ours = official_keys(case.weights)
    return {key.removeprefix(prefix): value for key, value in ours.items() if key.startswith(prefix)}


@golden("evad")
def test_encoder_and_re_mapping(case: Case):
    config = configured(case)
    encoder = Encoder(config).eval()
    encoder.load_state_dict(part(case, "encoder."))
    grid = tuple(case.config["grid"])
    case.check("pos_embed", positions(grid, config.dim, config.table))
    with torch.no_grad():
        for number, (x, index, found) in enumerate(encoder.steps(case.inputs["video"])):
            assert found == grid
            if config.keep_rates[number] < 1:
                case.check(f"block{number}.x", x)
                case.check(f"block{number}.idx", index)
        encoded = encoder(case.inputs["video"])
    case.check("encoder", encoded.tokens)
    case.check("idx", encoded.index)
    dropped = torch.ones(case.outputs["mask"].shape, dtype=torch.int64).scatter(1, encoded.index, 0)
    case.check("mask", dropped)
    full = unprune(encoded.tokens, encoded.index, case.weights["mask_token"], grid)
    case.check("full_map_official", full)


@golden("evad")
def test_decoder(case: Case):
    config = configured(case)
    decoder = Decoder(config).eval()
    decoder.load_state_dict(part(case, "decoder."))
    with torch.no_grad():
        logits = decoder(case.inputs["decoder"], config.proposals)
    assert len(logits) == config.decoder_depth
    for number, given in enumerate(logits):
        case.check(f"decoder.logits{number}", given)
