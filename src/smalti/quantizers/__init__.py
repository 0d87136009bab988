"""Latents → codes. `base.py` holds the contract; every quantizer is one file."""

from smalti.quantizers.base import Quantized as Quantized
from smalti.quantizers.base import Quantizer as Quantizer
from smalti.quantizers.residual_fsq import ResidualFSQ as ResidualFSQ
from smalti.quantizers.residual_fsq import ResidualFSQConfig as ResidualFSQConfig
