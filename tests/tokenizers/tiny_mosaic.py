from typing import Any

from smalti.quantizers.residual_fsq import ResidualFSQConfig

TINY: dict[str, Any] = {
    "width": 16,
    "encoder_blocks": 1,
    "decoder_blocks": 1,
    "fine": (8, 8),
    "chunk": 2,
    "quantizer": ResidualFSQConfig(opened=(3, 6), limits=(3, 3), first_limit=4),
}
