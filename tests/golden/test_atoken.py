"""AToken on a packed batch of a picture, a clip and voxels, against the official modules."""

import torch

from smalti.nn.packed_sets import PackedSets, packed
from smalti.tokenizers.atoken import AToken
from tests.golden.cases import Case, golden


def load(case: Case, *, discrete: bool) -> AToken:
    about = case.config
    levels = {"levels": tuple(about["fsq_levels"]), "codes": about["num_codebooks"]} if discrete else {}
    patch = tuple(about["patch"])
    model = AToken.from_official(case.weights, heads=about["heads"], patch=patch, **levels).eval()
    known = model.config
    assert (known.dim, known.depth, known.hidden) == (about["dim"], about["blocks"], about["mlp"])
    assert (known.latent, known.channels) == (about["latent"], about["in_channels"])
    return model


def batch(case: Case) -> PackedSets:
    return PackedSets(case.inputs["feats"], case.inputs["coords"])


@golden("atoken")
def test_pictures_and_clips_are_cut_as_officially(case: Case) -> None:
    model = load(case, discrete=False)
    picture, clip = case.inputs["image_hwc"].permute(2, 0, 1)[:, None], case.inputs["video_thwc"]
    clips = [part / 2 + 0.5 for part in (picture, clip.permute(3, 0, 1, 2))]
    expected = batch(case).sets()
    given = packed([*map(model.patches, clips)]).sets()
    for (features, places), (wanted, where) in zip(given, expected[:2], strict=True):
        torch.testing.assert_close(features, wanted, atol=1e-6, rtol=0)
        assert torch.equal(places, where)
    features, places = expected[2]
    again, where = model.voxels(features[:, :48] / 2 + 0.5, places[:, 1:])
    torch.testing.assert_close(again, features, atol=1e-6, rtol=0)
    assert torch.equal(where, places)


@golden("atoken")
@torch.no_grad()
def test_what_is_seen_matches_the_official_module(case: Case) -> None:
    seen = load(case, discrete=False).see(batch(case))
    case.check("encoded", seen.features.features)
    case.check("pooled_l2", seen.pooled)
    mean, log_variance = seen.posterior.features.chunk(2, 1)
    case.check("mean", mean)
    case.check("logvar", log_variance)


@golden("atoken")
@torch.no_grad()
def test_latents_and_patches_match_the_official_modules(case: Case) -> None:
    given = batch(case)
    plain = load(case, discrete=False)(given)
    case.check("mean", plain.quantized.values)
    case.check("rec_from_mean", plain.patches.features)
    rounded = load(case, discrete=True)(given)
    case.check("fsq_ids", rounded.quantized.ids)
    case.check("fsq_quantized", rounded.quantized.values)
    case.check("rec_from_fsq", rounded.patches.features)
