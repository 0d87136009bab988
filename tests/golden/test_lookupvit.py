"""LookupViT against vit-pytorch's re-implementation: every part of the first block, logits."""

import torch

from smalti.backbones.lookupvit import LookupViT
from tests.golden.cases import Case, golden


def load(case: Case) -> LookupViT:
    about = case.config
    return LookupViT.from_official(
        case.weights,
        heads=about["heads"],
        cross_heads=about["cross_attn_heads"],
        patch=about["patch_size"],
        size=about["image_size"],
    ).eval()


@golden("lookupvit")
def test_sizes_are_read_from_the_weights(case: Case) -> None:
    about, told = case.config, load(case).config
    assert (told.dim, told.depth, told.size) == (about["dim"], about["depth"], about["image_size"])
    assert (told.patch, told.patch_kernel) == (about["highres_patch_size"], about["patch_conv_kernel_size"])
    assert (told.mlp_ratio, told.lookup_ratio) == (about["mlp_factor"], about["highres_mlp_factor"])
    assert told.classes == about["num_classes"]


@golden("lookupvit")
def test_matches_the_re_implementation(case: Case) -> None:
    model, clip = load(case), case.inputs["image"][:, :, None]
    block = model.blocks[0]
    with torch.no_grad():
        compressed, lookup, _ = model.embed(clip)
        read, look = block.gather(compressed, lookup)
        case.check("layer0.sub2", read)
        case.check("layer0.qk_sim", look.q @ look.k.mT * look.q.shape[-1] ** -0.5)
        x = compressed + read
        attended = block.refine.attn(block.refine.norm1(x))
        case.check("layer0.sub0", attended)
        x = x + attended
        fed = block.refine.mlp(block.refine.norm2(x))
        case.check("layer0.sub1", fed)
        x = x + fed
        infused = block.infuse(x, look)
        case.check("layer0.sub3", infused)
        stream = block.stream_norm(lookup + infused)
        case.check("layer0.sub4", stream)
        thought = block.lookup_mlp(block.lookup_norm(stream))
        case.check("layer0.sub5", thought)
        whole = block(compressed, lookup)
        torch.testing.assert_close(whole, (x, stream + thought))
        case.check("logits", model.head(model.encode(clip).pooled))
