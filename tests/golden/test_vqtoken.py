"""VQToken's k-means, codebook and VQ-attention against its official modules."""

import torch
from torch.nn import functional as F

from smalti.backbones.vqtoken import VQToken
from smalti.nn.spherical import spherical_k_means
from smalti.reducers import Assign
from tests.golden.cases import Case, golden


@golden("vqtoken")
def test_codes_and_attention(case: Case):
    config = case.config
    frames, height, width = config["T"], config["H"], config["W"]
    tokens = case.inputs["tokens"].reshape(1, -1, config["D"])
    group, _ = spherical_k_means(F.normalize(tokens, dim=-1), case.inputs["init_centroids"][None])
    case.check("labels", group.view(frames, height * width))

    reduction = Assign(group, config["K"])
    model = VQToken.from_official(case.weights, heads=config["heads"], grid=(frames, height, width))
    assert model.config.hidden == config["ff"]
    with torch.no_grad():
        found = model.enrich(tokens, reduction, (frames, height, width))
    case.check("codebook", found.codebook[0])
    case.check("vq_attention_out", found.values[0])
