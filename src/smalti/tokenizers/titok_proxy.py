"""MaskGIT's VQGAN: TiTok's first stage learns to predict its codes, the second goes on with its decoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from smalti.nn.strict_loading import load_strictly, numbered, renamed, told
from smalti.nn.vqgan import MaskGITDecoder, MaskGITEncoder
from smalti.quantizers.vq import VectorQuantizer
from smalti.tokenizers.one_dimensional import OneDimensionalTokenizer, ProxyConfig


class ProxyVQGAN(nn.Module):
    """Pictures ⇄ a grid of codes (MaskGIT: Chang et al., 2022, arXiv 2202.04200).

    ```
    pictures [b 3 h w] ─► convolutions ÷ 16 ─► nearest of 1024 codes ─► ids ─► convolutions × 16 ─► pictures
    ```
    Pixels in [0, 1].
    """

    def __init__(self, config: ProxyConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or ProxyConfig()
        sizes = (config.latent, config.channels, config.multiples, config.blocks)
        self.encoder = MaskGITEncoder(*sizes)
        self.quantizer = VectorQuantizer(codebook_size=config.codes, dim=config.latent, learn="gradient")
        self.decoder = MaskGITDecoder(*sizes)

    @torch.no_grad()
    def encode(self, pictures: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b gh gw"]:
        """The codes: targets of the first stage."""
        return self.quantizer(rearrange(self.encoder(pictures), "b c h w -> b h w c")).ids[..., 0]

    @torch.no_grad()
    def decode(self, ids: Int[Tensor, "b gh gw"]) -> Float[Tensor, "b 3 h w"]:
        """Pictures, clamped.

        Raises:
            FormatError: an id outside the codebook.
        """
        values = self.quantizer.lookup(ids[..., None])
        return self.decoder(rearrange(values, "b h w c -> b c h w")).clamp(0, 1)

    def hand_over(self, tokenizer: OneDimensionalTokenizer) -> None:
        """Give a tokenizer between its stages these codes and this decoder.

        Raises:
            ConfigError: it predicts pixels, or codes of another proxy.
        """
        state = {f"proxy_decoder.{name}": tensor for name, tensor in self.decoder.state_dict().items()}
        state["proxy_codes"] = self.quantizer.codebook
        kept = {n: t for n, t in tokenizer.state_dict().items() if not n.startswith("proxy_")}
        load_strictly(tokenizer, kept | state)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> ProxyVQGAN:
        """MaskGIT's VQGAN from the checkpoint that TiTok's authors converted.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        codes, latent = told(state, "quantize.embedding.weight").shape
        levels = numbered(state, r"decoder\.up\.(\d+)\.")
        widths = [len(told(state, f"decoder.up.{level}.block.0.conv1.weight")) for level in levels]
        blocks = len(numbered(state, r"decoder\.mid\.(\d+)\."))
        multiples = tuple(width // widths[0] for width in widths)
        model = cls(ProxyConfig(codes, latent, widths[0], multiples, blocks))
        own = {f"quantizer.{name}": tensor for name, tensor in model.quantizer.named_buffers()}
        names = ((r"^quantize\.embedding\.weight$", "quantizer.codebook"),)
        load_strictly(model, own | renamed(state, names))
        return model
