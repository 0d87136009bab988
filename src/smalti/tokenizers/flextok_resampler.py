"""FlexTok between latents and registers: the encoder, the rounding, and the decoder that follows a flow.

```
latents [b c h w] ─► patches + places ─┐
                        registers [n d] ┴─► blocks ─► the registers ─► norm, linear ─► FSQ ─► ids [b n 1]
                                            ▲ patches see patches; register i sees patches and registers ≤ i
noised latents ─► patches + places ────┐
   ids' values ─► linear ─► cut at k ──┴─► blocks that the time modulates ─► the patches ─► velocity [b c h w]
                            ▲ a learned token from rank k on; another one everywhere for no condition
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from smalti.nn.adaptive_norm import Modulation, TimeEmbedding, modulate
from smalti.nn.flow_sampling import Guide, euler, noised
from smalti.nn.strict_loading import load_strictly, numbered, renamed, told
from smalti.quantizers.base import Quantized
from smalti.quantizers.fsq import FSQConfig
from smalti.tokenizers.flextok_blocks import FlexBlock, causal_last, grid_places, plain_norm

Lengths = Literal["uniform", "powers", "rounded"]
MARGIN = -1e-3  # official FSQ reaches a little beyond its outermost levels


@dataclass(frozen=True)
class FlexTokResamplerConfig:
    """Attributes:
    channels: of the latents.
    grid: patches of the latents, rows and columns.
    patch: side of a patch, in latents.
    registers: tokens.
    levels: of every channel of a code.
    encoder_dim, encoder_depth, decoder_dim, decoder_depth: of the transformers.
    head_dim: channels of a head.
    causal: register i sees no later one; without, all see all.
    lengths: in training, how many registers stay: any number, a power of two, or any rounded up to one.
    condition_dropout: share of samples without any register, in training.
    corrupted, corrupted_odds: in training, share of tokens replaced by random ones, in so many batches.
    aligned: decoder's block whose output `Flow.features` holds; a third of the depth when not given.
    """

    channels: int = 16
    grid: tuple[int, int] = (16, 16)
    patch: int = 2
    registers: int = 256
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    encoder_dim: int = 768
    encoder_depth: int = 12
    decoder_dim: int = 768
    decoder_depth: int = 12
    head_dim: int = 64
    causal: bool = True
    lengths: Lengths = "uniform"
    condition_dropout: float = 0.1
    corrupted: float = 0.0
    corrupted_odds: float = 0.2
    aligned: int | None = None


class Flow(NamedTuple):
    """What training needs of a pass.

    Attributes:
        velocity: as predicted.
        target: noise less latents; the loss is the mean square of the difference.
        quantized: the tokens, uncut.
        kept: registers of each sample that stayed.
        features: of the decoder's patches at the aligned block, for a frozen network's features to guide.
    """

    velocity: Float[Tensor, "b c h w"]
    target: Float[Tensor, "b c h w"]
    quantized: Quantized
    kept: Int[Tensor, "b"]
    features: Float[Tensor, "b n d"]


class FlexTokResampler(nn.Module):
    """Latents to ordered codes, and codes to latents by a flow (Bachmann et al., 2025, arXiv 2502.13967)."""

    places: Tensor
    decoder_places: Tensor
    allowed: Tensor | None

    def __init__(self, config: FlexTokResamplerConfig) -> None:
        super().__init__()
        self.config = config
        patch, wide, dim = config.channels * config.patch**2, config.decoder_dim, config.encoder_dim
        self.quantizer = FSQConfig(config.levels, MARGIN).build()
        self.enter = nn.Linear(patch, dim)
        self.registers = nn.Parameter(torch.randn(config.registers, dim) * 0.02)
        self.encoder = nn.ModuleList(
            FlexBlock(dim, config.head_dim, timed=False) for _ in range(config.encoder_depth)
        )
        self.encoder_norm = plain_norm(dim)
        self.to_codes = nn.Linear(dim, self.quantizer.dim)

        self.from_codes = nn.Linear(self.quantizer.dim, wide)
        self.absent = nn.Parameter(torch.randn(wide) * 0.02)
        self.nothing = nn.Parameter(torch.randn(wide) * 0.02)
        self.decoder_enter = nn.Linear(patch, wide)
        self.time = TimeEmbedding(wide)
        self.decoder = nn.ModuleList(
            FlexBlock(wide, config.head_dim, timed=True) for _ in range(config.decoder_depth)
        )
        self.decoder_norm, self.modulation = plain_norm(wide), Modulation(wide, 2)
        self.leave = nn.Linear(wide, patch)
        rows, columns = config.grid
        allowed = causal_last(rows * columns, config.registers) if config.causal else None
        self.register_buffer("allowed", allowed, persistent=False)
        self.register_buffer("places", grid_places(rows, columns, dim), persistent=False)
        self.register_buffer("decoder_places", grid_places(rows, columns, wide), persistent=False)
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear) and "modulation" not in name:
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.leave.weight)

    def cut(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n p"]:
        """Patches of latents, row by row."""
        p = self.config.patch
        return rearrange(latents, "b c (h p) (w q) -> b (h w) (p q c)", p=p, q=p)

    def read(self, latents: Float[Tensor, "b c h w"], count: int | None = None) -> Float[Tensor, "b k e"]:
        """What the first `count` registers hold, all when not given; not yet rounded."""
        count = count or len(self.registers)
        patches = self.enter(self.cut(latents)) + self.places.to(latents.dtype)
        x = torch.cat([patches, self.registers[:count].expand(len(patches), -1, -1)], 1)
        size = x.shape[1]
        allowed = None if self.allowed is None else self.allowed[:size, :size]
        for block in self.encoder:
            x = block(x, allowed)
        return self.to_codes(self.encoder_norm(x[:, patches.shape[1] :]))

    def condition(
        self,
        values: Float[Tensor, "b k e"],
        kept: Int[Tensor, "b"] | None = None,
        dropped: Bool[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """What the decoder reads: `kept` first registers of each sample, or nothing where `dropped`."""
        found = self.from_codes(values.to(self.absent.dtype))
        missing = len(self.registers) - found.shape[1]
        found = torch.cat([found, self.absent.expand(len(found), missing, -1)], 1)
        if kept is not None:
            rank = torch.arange(found.shape[1], device=found.device)
            found = torch.where((rank >= kept[:, None])[..., None], self.absent, found)
        if dropped is not None:
            found = torch.where(dropped[:, None, None], self.nothing, found)
        return found

    def velocity(
        self, latents: Float[Tensor, "b c h w"], time: Float[Tensor, "b"], registers: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b m d"]]:
        """Noise less latents as it seems at a share of noise, and the features of the aligned block."""
        patches = self.decoder_enter(self.cut(latents)) + self.decoder_places.to(latents.dtype)
        n, embedding = patches.shape[1], self.time(time)
        x = features = torch.cat([patches, registers], 1)
        aligned = self.config.aligned or max(len(self.decoder) // 3, 1)
        for number, block in enumerate(self.decoder, 1):
            x = block(x, None, embedding, (n, registers.shape[1]))
            features = x if number == aligned else features
        shift, scale = self.modulation(embedding, (n,))
        found = self.leave(modulate(self.decoder_norm(x[:, :n]), shift, scale))
        (h, w), p = self.config.grid, self.config.patch
        pattern = "b (h w) (p q c) -> b c (h p) (w q)"
        return rearrange(found, pattern, h=h, w=w, p=p, q=p), features[:, :n]

    def draw_kept(self, count: int) -> Int[Tensor, "count"]:
        """How many registers to keep of so many samples in training."""
        most = len(self.registers)
        if self.config.lengths == "powers":
            return 2 ** torch.randint(most.bit_length(), (count,))
        kept = torch.randint(1, most + 1, (count,))
        if self.config.lengths == "rounded":
            kept = 2 ** torch.log2(kept.double()).ceil().long()
        return kept.clamp(max=most)

    def forward(
        self,
        latents: Float[Tensor, "b c h w"],
        time: Float[Tensor, "b"],
        noise: Float[Tensor, "b c h w"] | None = None,
    ) -> Flow:
        """One pass of training, with registers cut and conditions dropped as drawn.

        Args:
            latents: clean.
            time: shares of noise (`nn.flow_sampling.logit_normal`).
            noise: drawn when not given.
        """
        config, device = self.config, latents.device
        noise = torch.randn_like(latents) if noise is None else noise
        quantized = self.quantizer(self.read(latents))
        values = quantized.values
        if self.training and config.corrupted and torch.rand(()) < config.corrupted_odds:
            other = torch.randint(self.quantizer.codebook_sizes[0], quantized.ids.shape, device=device)
            wrong = torch.rand(values.shape[:2], device=device) < config.corrupted
            values = torch.where(wrong[..., None], self.quantizer.lookup(other), values)
        kept = torch.full((len(latents),), len(self.registers), device=device)
        dropped = None
        if self.training:
            kept = self.draw_kept(len(latents)).to(device)
            dropped = torch.rand(len(latents), device=device) < config.condition_dropout
        registers = self.condition(values, kept, dropped)
        velocity, features = self.velocity(noised(latents, noise, time), time, registers)
        return Flow(velocity, noise - latents, quantized, kept, features)

    @torch.no_grad()
    def sample(
        self,
        values: Float[Tensor, "b k e"],
        noise: Float[Tensor, "b c h w"],
        steps: int = 25,
        guide: Guide | None = None,
        kept: Int[Tensor, "b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Latents of the first k codes' values.

        Args:
            values: of any first codes.
            noise: to begin with.
            steps: of Euler's method.
            guide: how to lead away from no condition (`nn.flow_sampling`); none when not given.
            kept: codes of each sample that count; all when not given.
        """
        registers = self.condition(values, kept)
        free = self.nothing.expand_as(registers)

        def velocity(x: Tensor, share: float) -> Tensor:
            time = torch.full((len(x),), share, device=x.device)
            told_velocity = self.velocity(x, time, registers)[0]
            return told_velocity if guide is None else guide(told_velocity, self.velocity(x, time, free)[0])

        return euler(velocity, noise, steps)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        *,
        levels: tuple[int, ...],
        grid: tuple[int, int],
        patch: int = 2,
        head_dim: int = 64,
    ) -> FlexTokResampler:
        """Encoder and decoder of an official checkpoint; what it does not tell must be given.

        Raises:
            ConfigError: names or shapes that do not fit.
        """
        state = {name: t for name, t in state.items() if not name.endswith(".posembs")}
        ours = renamed(state, RULES)
        dim, wide = (told(ours, name).shape[0] for name in ("enter.weight", "decoder_enter.weight"))
        model = cls(
            FlexTokResamplerConfig(
                channels=ours["enter.weight"].shape[1] // patch**2, grid=grid, patch=patch,
                registers=len(told(ours, "registers")), levels=levels, encoder_dim=dim, decoder_dim=wide,
                encoder_depth=len(numbered(ours, r"encoder\.(\d+)\.")),
                decoder_depth=len(numbered(ours, r"decoder\.(\d+)\.")), head_dim=head_dim,
            )
        )  # fmt: skip
        load_strictly(model, ours)
        return model


RULES = (
    (r"^(en|de)coder\.module_dict\.", ""),
    (r"^enc_patch_embedder\.patch_proj", "enter"),
    (r"^enc_register_module\.registers", "registers"),
    (r"^enc_transformer\.blocks", "encoder"),
    (r"^enc_to_latents\.proj", "to_codes"),
    (r"^dec_latents_linear\.proj", "from_codes"),
    (r"^dec_nested_dropout\.dropout_mask_token", "absent"),
    (r"^dec_nullcond\.nullcond", "nothing"),
    (r"^dec_patch_embedder\.patch_proj", "decoder_enter"),
    (r"^dec_time_embedder\.mlp\.0", "time.enter"),
    (r"^dec_time_embedder\.mlp\.2", "time.leave"),
    (r"^dec_transformer\.blocks", "decoder"),
    (r"^dec_to_patches\.adaLN_modulation\.1", "modulation.linear"),
    (r"^dec_to_patches\.proj", "leave"),
    (r"adaLN_modulation\.1", "modulation.linear"),
    (r"\.attn\.w([qkv])\.", r".attn.\1."),
    (r"\.mlp\.fc1", ".mlp.gate"),
    (r"\.mlp\.fc2", ".mlp.out"),
    (r"\.mlp\.fc3", ".mlp.value"),
)
