"""C-ViViT and its generator against the public re-implementation: tokens, codes, frames, logits."""

import torch

from smalti.generators.phenaki import MaskGit
from smalti.quantizers.lfq import LFQConfig
from smalti.tokenizers.phenaki import Phenaki
from tests.golden.cases import Case, golden


@golden("phenaki")
def test_matches_the_public_implementation(case: Case) -> None:
    with torch.no_grad():
        (generate if case.about["module"].startswith("MaskGit") else reconstruct)(case)


def reconstruct(case: Case) -> None:
    about, video = case.config, case.inputs["video"]
    model = Phenaki.from_official(case.weights).eval()
    told = model.config
    assert (told.dim, told.heads, told.dim_head) == (about["dim"], about["heads"], about["dim_head"])
    assert (told.patch, told.tube) == (about["patch_size"], about["temporal_patch_size"])
    assert (told.space_depth, told.time_depth) == (about["spatial_depth"], about["temporal_depth"])
    assert model.codebook_sizes == (about["codebook_size"],)
    assert isinstance(told.quantizer, LFQConfig) == about["lookup_free_quantization"]
    case.check("patch_tokens", model.encoder.patches(video))
    case.check("enc", model.features(video))
    frames, codes = model(video)
    case.check("ids", codes.ids[..., 0])
    case.check("rec", frames)
    case.check("rec", model.decode_part(codes.ids, {}))


def generate(case: Case) -> None:
    about = case.config
    model = MaskGit.from_official(case.weights).eval()
    told = model.config
    assert (told.dim, told.depth, told.heads) == (about["dim"], about["depth"], about["heads"])
    assert (told.codes, told.length, told.text) == (
        about["num_tokens"],
        about["max_seq_len"],
        about["dim_context"],
    )
    ids, text, read = (case.inputs[name] for name in ("ids", "context", "text_mask"))
    case.check("logits", model(ids, text, read.bool()))
    case.check("logits_cfg3", model.guided(ids, text, read.bool(), 3.0))
