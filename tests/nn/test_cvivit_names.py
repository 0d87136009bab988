from __future__ import annotations

import torch

from smalti.nn.cvivit_names import public_weights


def test_names_of_the_public_implementations_become_ours() -> None:
    pairs = {
        "encoder.enc_spatial_transformer.layers.0.0.dsconv.weight": "encoder.space.layers.0.peg.weight",
        "dec_temporal_transformer.layers.12.1.to_kv.weight": "decoder.time.layers.12.attention.kv.weight",
        "layers.1.1.spatial_rel_pos_bias.net.1.0.bias": "layers.1.attention.bias.net.2.bias",
        "layers.1.2.null_kv": "layers.1.cross.null_kv",
        "layers.3.3.1.weight": "layers.3.feed.into.weight",
        "to_patch_emb_first_frame.2.bias": "encoder.patches.first.linear.bias",
        "decoder.to_pixels.0.weight": "decoder.pixels.rest.weight",
    }
    unused = ("layers.0.1.norm.beta", "layers.0.1.context_norm.gamma")
    found = public_weights({name: torch.ones(1) for name in (*pairs, *unused)})
    assert list(found) == list(pairs.values())
    assert public_weights({"layers.0.1.null_kv": torch.ones(2, 0, 4)}) == {}
