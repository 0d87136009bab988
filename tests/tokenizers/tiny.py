"""A tokenizer of a few thousand weights in which every layer matters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from smalti.quantizers.residual_fsq import ResidualFSQConfig
from smalti.tokenizers.mosaic import Mosaic, MosaicConfig

QUANTIZER = ResidualFSQConfig(step=0.1, opened=(3, 6, 6), limits=(3, 3, 0), first_limit=4)


def tiny_config(**changes: Any) -> MosaicConfig:
    sizes = {"width": 16, "encoder_blocks": 1, "decoder_blocks": 1, "fine": (8, 8), "context": 8}
    return MosaicConfig(**{**sizes, "chunk": 2, "quantizer": QUANTIZER, **changes})


def tiny_mosaic(**changes: Any) -> Mosaic:
    """Layers that start at zero are filled: they would hide mistakes."""
    torch.manual_seed(1)
    model = Mosaic(tiny_config(**changes)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
        elif (parameter == 1).all():
            nn.init.uniform_(parameter, 0.7, 1.3)
    return model
