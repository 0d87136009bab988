"""CenterCLIP: a CLIP of clips and captions whose picture tower clusters the tokens of neighbouring frames."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.backbones.centerclip_tower import CenterCLIPConfig, ClipTower, blockwise, clip_block
from smalti.errors import ConfigError
from smalti.reducers.centerclip import CenterCLIPConfig as Clustering
from smalti.registry import Official, Paper, system

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@system(
    "centerclip",
    room="backbones",
    paper=Paper(
        "CenterCLIP: Token Clustering for Efficient Text-Video Retrieval",
        2022,
        "https://arxiv.org/abs/2205.00823",
    ),
    official=Official("mzhaoshuai/CenterCLIP", "CC-BY-NC-4.0"),
    presets={
        "vit-b-32-6-4": CenterCLIPConfig(),
        "vit-b-32-6-6": CenterCLIPConfig(target_frames=blockwise(12, 6, 12, 6)),
        "vit-b-32-7-4": CenterCLIPConfig(target_frames=blockwise(12, 7, 12, 4)),
        "vit-b-32-6-4-spectral": CenterCLIPConfig(clustering=Clustering(algorithm="spectral")),
        "vit-b-16-6-4": CenterCLIPConfig(patch=16, cluster_tokens=blockwise(12, 6, 196, 160)),
        "vit-b-32": CenterCLIPConfig(target_frames=(12,) * 12),
    },
    tags=("retrieval", "clip", "cluster", "video", "text"),
)
class CenterCLIP(nn.Module):
    """CenterCLIP (Zhao et al., 2022): CLIP4Clip with medoids of segments in the upper blocks.

    ```
    clip [b 3 t h w] ─► blocks frame by frame ─► k medoids a segment ─► blocks segment by segment
                                        ─► class tokens ─► [b s e] ─► length 1 ─► mean ─► length 1 ┐
    caption [c words] ─► causal blocks ─► token at its end ─► [c e] ─► length 1 ────────────────────┴─► scores
    ```
    Pixels are RGB in [0, 1]; CLIP's mean and deviation are taken inside. Tokens of captions are CLIP's. The
    similarity is a cosine times exp(`logit_scale`). Official training: AdamW, 5e-6 for CLIP's parameters,
    decay 0.2, 5 epochs, 128 clips of 12 frames a batch. Deviations: the sequence is batch-first; every
    segment stops its clustering for itself unless `clustering.chunk` says otherwise.

    Raises:
        ConfigError: clips of another size or length, or captions of another length, than the model's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: CenterCLIPConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CenterCLIPConfig()
        self.visual = ClipTower(config)
        self.words = nn.Embedding(config.vocabulary, config.text_width)
        self.word_position = nn.Parameter(0.01 * torch.randn(config.words, config.text_width))
        self.text_blocks = nn.ModuleList(
            clip_block(config.text_width, config.text_heads) for _ in range(config.text_depth)
        )
        self.text_norm = nn.LayerNorm(config.text_width)
        self.text_projection = nn.Parameter(
            config.text_width**-0.5 * torch.randn(config.text_width, config.embedding)
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1, 1), persistent=False)
        nn.init.normal_(self.words.weight, std=0.02)

    def encode_video(
        self, video: Float[Tensor, "b 3 t h w"], mask: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b e"]:
        """One embedding a clip, of length one: the mean over its segments.

        Args:
            video: clips.
            mask: frames that are real. Padded ones are clustered too; a segment counts if its last frame is
                real.
        """
        config, shape = self.config, tuple(video.shape[2:])
        wanted = (config.frames, config.resolution, config.resolution)
        if shape != wanted:
            raise ConfigError(f"this model takes clips of {wanted} frames and pixels, not {shape}")
        segments = F.normalize(self.visual((video - self.mean) / self.std).float(), dim=-1)
        if mask is None:
            weight = torch.ones_like(segments[..., :1])
        else:
            duration = config.frames // segments.shape[1]
            weight = mask[:, duration - 1 :: duration, None].float()
        pooled = (segments * weight).sum(1) / weight.sum(1).clamp(min=1)
        return F.normalize(pooled, dim=-1)

    def encode_text(self, words: Int[Tensor, "c n"]) -> Float[Tensor, "c e"]:
        """One embedding a caption, of length one: what stands at its end."""
        length = words.shape[1]
        if length > self.config.words:
            raise ConfigError(f"captions may have {self.config.words} tokens, not {length}")
        x = self.words(words) + self.word_position[:length]
        seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()[None, None]
        for block in self.text_blocks:
            x = block(x, seen)
        end = words.argmax(-1)
        x = self.text_norm(x)[torch.arange(len(x), device=x.device), end]
        return F.normalize((x @ self.text_projection).float(), dim=-1)

    def forward(
        self,
        words: Int[Tensor, "c n"],
        video: Float[Tensor, "b 3 t h w"],
        mask: Bool[Tensor, "b t"] | None = None,
    ) -> Float[Tensor, "c b"]:
        """Similarity of every caption to every clip."""
        return similarity(self.encode_text(words), self.encode_video(video, mask), self.logit_scale)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], **config: Any) -> CenterCLIP:
        """The module of an official checkpoint, or of a plain CLIP.

        Args:
            state: names and tensors; prefixes `module.` and `clip.` are taken off.
            config: fields of the configuration that a checkpoint does not tell, such as `frames`,
                `target_frames`, `cluster_tokens` and `clustering`. Without lists nothing is clustered.

        Raises:
            ConfigError: names or sizes that do not fit.
        """
        state = {re.sub(r"^(module\.)?(clip\.)?", "", name): tensor for name, tensor in state.items()}
        try:
            sizes = _sizes(state)
            unclustered = {"target_frames": (config.get("frames", 12),) * sizes["depth"]}
            model = cls(CenterCLIPConfig(**(sizes | unclustered | config)))
            model.load_state_dict(rename_official(state, model.config))
        except KeyError as error:
            raise ConfigError(f"this checkpoint is not of CLIP's layout: no {error}") from error
        except RuntimeError as error:
            raise ConfigError(f"this checkpoint does not fit: {error}") from error
        return model


def similarity(
    text: Float[Tensor, "c e"], video: Float[Tensor, "b e"], logit_scale: Tensor
) -> Float[Tensor, "c b"]:
    """Cosines of embeddings of length one, times exp(logit_scale)."""
    return logit_scale.exp() * text @ video.mT


def retrieval_loss(similarities: Float[Tensor, "b b"]) -> Tensor:
    """Cross-entropy from captions to clips and back; pairs stand on the diagonal."""
    truth = torch.arange(len(similarities), device=similarities.device)
    return (F.cross_entropy(similarities, truth) + F.cross_entropy(similarities.mT, truth)) / 2


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, name)) for name in state)


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a checkpoint tells; heads have 64 channels, as in every CLIP."""
    width, _, patch, _ = state["visual.conv1.weight"].shape
    tokens = state["visual.positional_embedding"].shape[0] - 1
    depth = _count(state, r"visual\.transformer\.resblocks\.\d+\.ln_1\.weight")
    vocabulary, text_width = state["token_embedding.weight"].shape
    return {
        "resolution": int(tokens**0.5) * patch,
        "patch": patch,
        "spacetime_patch": "visual.conv2.weight" in state,
        "width": width,
        "heads": max(width // 64, 1),
        "depth": depth,
        "embedding": state["text_projection"].shape[1],
        "words": state["positional_embedding"].shape[0],
        "vocabulary": vocabulary,
        "text_width": text_width,
        "text_heads": max(text_width // 64, 1),
        "text_depth": _count(state, r"transformer\.resblocks\.\d+\.ln_1\.weight"),
        "cluster_tokens": (tokens,) * depth,
        "cluster_embedding": any(name.endswith("tokencluster_inter.cluster_embed") for name in state),
    }


OFFICIAL_NAMES = (
    (
        r"^visual\.transformer\.resblocks\.(\d+)\.tokencluster_inter\.cluster_(frame_)?embed$",
        r"visual.clusterings.\1.cluster_\2embedding",
    ),
    (r"^visual\.transformer\.resblocks\.", "visual.blocks."),
    (r"^transformer\.resblocks\.", "text_blocks."),
    (r"^visual\.class_embedding$", "visual.class_token"),
    (r"^visual\.positional_embedding$", "visual.position"),
    (r"^visual\.ln_pre\.", "visual.norm_before."),
    (r"^visual\.ln_post\.", "visual.norm_after."),
    (r"^visual\.proj$", "visual.projection"),
    (r"^token_embedding\.", "words."),
    (r"^positional_embedding$", "word_position"),
    (r"^ln_final\.", "text_norm."),
)
IN_BLOCKS = (
    (r"\.attn\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
UNUSED = re.compile(
    r".*\.spg|.*position_ids|input_resolution|context_length|vocab_size|visual\.conv[12]\.weight"
)


def rename_official(state: Mapping[str, Tensor], config: CenterCLIPConfig) -> dict[str, Tensor]:
    """Official names → ours. A picture's patches become the middle of those over time."""
    renamed = {}
    if config.spacetime_patch and "visual.conv2.weight" in state:
        renamed["visual.patches.weight"] = state["visual.conv2.weight"]
    else:
        flat = state["visual.conv1.weight"][:, :, None]
        around = (1, 1) if config.spacetime_patch else (0, 0)
        renamed["visual.patches.weight"] = F.pad(flat, (0, 0, 0, 0, *around))
    for name, tensor in state.items():
        if UNUSED.fullmatch(name) or (name.endswith("cluster_frame_embed") and not config.frame_embedding):
            continue
        for pattern, ours in OFFICIAL_NAMES:
            name, found = re.subn(pattern, ours, name)
            if found:
                break
        for pattern, ours in IN_BLOCKS:
            name = re.sub(pattern, ours, name)
        renamed[name.replace("cluster_frame_embedding", "frame_embedding")] = tensor.float()
    return renamed
