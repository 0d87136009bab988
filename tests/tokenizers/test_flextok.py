from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import smalti
from smalti.errors import ConfigError, FormatError
from smalti.tokenizers.flextok import FlexTok
from smalti.tokenizers.flextok_blocks import causal_last
from smalti.tokenizers.flextok_resampler import FlexTokResampler
from tests.tokenizers.tiny_flextok import TINY

INNER = TINY["resampler"]


def filled(model: nn.Module) -> nn.Module:
    """Layers that start at zero would hide mistakes."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.fixture
def model() -> FlexTok:
    return filled(FlexTok(**TINY))


@pytest.fixture
def resampler() -> FlexTokResampler:
    return filled(FlexTokResampler(INNER))


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 1, 16, 16)


@pytest.mark.parametrize(
    ("preset", "encoder", "decoder"), [("d12_d12", 12, 12), ("d18_d18", 18, 18), ("d18_d28", 18, 28)]
)
def test_official_sizes_follow_from_the_depths(preset: str, encoder: int, decoder: int) -> None:
    """A block has 12 d² weights, and 12 d² more where a time modulates patches and registers apart."""
    with torch.device("meta"):
        made = smalti.create("flextok", f"flextok_{preset}_in1k")
    blocks = sum(
        p.numel() for part in (made.resampler.encoder, made.resampler.decoder) for p in part.parameters()
    )
    expected = 12 * (64 * encoder) ** 2 * encoder + 24 * (64 * decoder) ** 2 * decoder
    assert blocks == pytest.approx(expected, rel=0.01)
    assert made.codebook_sizes == (64_000,)
    assert (made.length, made.compression) == (256, (1, 256, 256))


def test_all_64000_ids_are_the_ids_of_their_codes() -> None:
    with torch.device("meta"):
        levels = smalti.create("flextok").resampler.config.levels
    quantizer = FlexTokResampler(dataclasses.replace(INNER, levels=levels)).quantizer
    ids = torch.arange(64_000)[:, None]
    codes = quantizer.lookup(ids)
    assert codes.abs().max() <= 1
    reach = (quantizer.levels - 1) * 1.001 / 2
    half = torch.where(quantizer.levels % 2 == 0, 0.5, 0.0)
    inside = (codes * (quantizer.levels // 2) + half) / reach
    latents = torch.atanh(inside) - torch.atanh(half / reach)
    assert torch.equal(quantizer(latents).ids, ids)


def test_patches_see_patches_and_a_register_those_before_it() -> None:
    assert causal_last(2, 3).int().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_fewer_registers_leave_the_first_ones_as_they_are(resampler) -> None:
    latents = torch.randn(2, 4, 4, 4)
    whole = resampler.read(latents)
    torch.testing.assert_close(resampler.read(latents, 3), whole[:, :3])
    resampler.registers.data[3] += torch.randn(32)
    changed = resampler.read(latents)
    torch.testing.assert_close(changed[:, :3], whole[:, :3])
    assert not torch.allclose(changed[:, 3:], whole[:, 3:], atol=1e-3)
    assert ((resampler.read(-latents) - whole).abs().amax(2) > 1e-3).all()


def test_without_causality_registers_see_all() -> None:
    resampler = filled(FlexTokResampler(dataclasses.replace(INNER, causal=False)))
    latents = torch.randn(1, 4, 4, 4)
    whole = resampler.read(latents)
    assert not torch.allclose(resampler.read(latents, 3), whole[:, :3], atol=1e-3)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_prefix_decodes_as_all_tokens_cut_there(model, pictures, count: int) -> None:
    tokens = model.encode(pictures)
    ids = tokens.ids.clone()
    values = model.resampler.quantizer.lookup(ids)
    kept = torch.full((2,), count)
    noise = model.noise(2)
    cut = model.resampler.sample(values, noise, 2, kept=kept)
    torch.testing.assert_close(model.resampler.sample(values[:, :count], noise, 2), cut)
    ids[:, count:] = (ids[:, count:] + 7) % 200
    other = model.resampler.sample(model.resampler.quantizer.lookup(ids), noise, 2, kept=kept)
    torch.testing.assert_close(other, cut)
    assert model.decode(tokens[:count]).shape == pictures.shape


def test_later_tokens_matter_and_none_at_all_is_refused(model, pictures) -> None:
    tokens = model.encode(pictures)
    assert not torch.allclose(model.decode(tokens[:2]), model.decode(tokens), atol=1e-4)
    with pytest.raises(FormatError):
        model.decode(tokens[:0])


def test_the_seed_decides_what_is_drawn(model, pictures) -> None:
    tokens, other = model.encode(pictures), FlexTok(dataclasses.replace(model.config, seed=1)).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.decode(tokens), model.decode(tokens))
    assert not torch.allclose(other.decode(tokens), model.decode(tokens), atol=1e-3)


def test_at_the_start_blocks_do_nothing_and_the_velocity_is_zero() -> None:
    resampler = FlexTokResampler(INNER).eval()
    x = torch.randn(1, 12, 48)
    time = resampler.time(torch.tensor([0.3]))
    for block in resampler.decoder:
        assert torch.equal(block(x, None, time, (4, 8)), x)
    velocity, _ = resampler.velocity(torch.randn(1, 4, 4, 4), torch.tensor([0.3]), x[:, :8])
    assert not velocity.any()


def test_training_reaches_every_weight(resampler) -> None:
    resampler.train()
    torch.manual_seed(3)
    flow = resampler(torch.randn(16, 4, 4, 4), torch.rand(16))
    assert flow.features.shape == (16, 4, 48)
    assert flow.kept.min() < 8
    (flow.velocity - flow.target).square().mean().backward()
    assert [n for n, p in resampler.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("lengths", "possible"),
    [("uniform", set(range(1, 9))), ("powers", {1, 2, 4, 8}), ("rounded", {1, 2, 4, 8})],
)
def test_registers_are_kept_as_configured(lengths: str, possible: set[int]) -> None:
    resampler = FlexTokResampler(dataclasses.replace(INNER, lengths=lengths))
    kept = resampler.draw_kept(4000)
    assert set(kept.tolist()) == possible
    share = (kept == 8).float().mean()
    assert share == pytest.approx({"uniform": 1 / 8, "powers": 1 / 4, "rounded": 1 / 2}[lengths], abs=0.03)


def test_corrupted_codes_reach_the_decoder_alone() -> None:
    config = dataclasses.replace(INNER, corrupted=1.0, corrupted_odds=1.0, condition_dropout=0.0)
    latents, time, noise = torch.randn(2, 4, 4, 4), torch.rand(2), torch.randn(2, 4, 4, 4)
    wrong = filled(FlexTokResampler(config)).train()
    right = filled(FlexTokResampler(INNER))
    right.load_state_dict(wrong.state_dict())
    one, other = wrong(latents, time, noise), right(latents, time, noise)
    assert torch.equal(one.quantized.ids, other.quantized.ids)
    assert not torch.allclose(one.velocity, other.velocity)


def test_pixels_can_be_the_latents() -> None:
    inner = dataclasses.replace(INNER, channels=3, grid=(4, 2))
    model = filled(FlexTok(resampler=inner, autoencoder=None, steps=1))
    assert model.compression == (1, 8, 4)
    assert model.decode(model.encode(torch.rand(1, 3, 2, 9, 5))).shape == (1, 3, 2, 9, 5)
    with pytest.raises(ConfigError, match="latents have 3 channels"):
        FlexTok(resampler=INNER, autoencoder=None)


def test_half_precision_runs(model, pictures) -> None:
    half = model.bfloat16()
    assert half.decode(half.encode(pictures)).dtype == torch.float32


def official_names(model: FlexTok) -> dict[str, torch.Tensor]:
    """Weights under the names that diffusers and the official modules give them."""
    inner = {
        "enter.": "encoder.module_dict.enc_patch_embedder.patch_proj.",
        "registers": "encoder.module_dict.enc_register_module.registers",
        "encoder.": "encoder.module_dict.enc_transformer.blocks.",
        "to_codes.": "encoder.module_dict.enc_to_latents.proj.",
        "from_codes.": "decoder.module_dict.dec_latents_linear.proj.",
        "absent": "decoder.module_dict.dec_nested_dropout.dropout_mask_token",
        "nothing": "decoder.module_dict.dec_nullcond.nullcond",
        "decoder_enter.": "decoder.module_dict.dec_patch_embedder.patch_proj.",
        "time.enter.": "decoder.module_dict.dec_time_embedder.mlp.0.",
        "time.leave.": "decoder.module_dict.dec_time_embedder.mlp.2.",
        "decoder.": "decoder.module_dict.dec_transformer.blocks.",
        "modulation.linear.": "decoder.module_dict.dec_to_patches.adaLN_modulation.1.",
        "leave.": "decoder.module_dict.dec_to_patches.proj.",
    }
    state = {}
    for name, tensor in model.resampler.state_dict().items():
        old = next(new for new in inner if name.startswith(new))
        name = inner[old] + name.removeprefix(old)
        name = name.replace(".modulation.linear", ".adaLN_modulation.1")
        for ours, theirs in (("gate", "fc1"), ("out", "fc2"), ("value", "fc3")):
            name = name.replace(f"mlp.{ours}.", f"mlp.{theirs}.")
        for part in "qkv":
            name = name.replace(f"attn.{part}.", f"attn.w{part}.")
        state[name] = tensor
    for name, tensor in model.autoencoder.state_dict().items():
        way = "down" if name.startswith("encoder") else "up"
        name = name.replace("after_encoder", "quant_conv").replace("before_decoder", "post_quant_conv")
        name = name.replace("levels", f"{way}_blocks").replace(".blocks.", ".resnets.")
        name = name.replace("resize", f"{way}samplers.0").replace("coder.enter", "coder.conv_in")
        name = name.replace("coder.leave", "coder.conv_out").replace("coder.norm", "coder.conv_norm_out")
        name = name.replace("nin_shortcut", "conv_shortcut").replace("middle.1.norm", "middle.1.group_norm")
        name = name.replace("middle.0", "mid_block.resnets.0").replace("middle.2", "mid_block.resnets.1")
        name = name.replace("middle.1.proj_out", "middle.1.to_out.0")
        for part in "qkv":
            name = name.replace(f"middle.1.{part}.", f"middle.1.to_{part}.")
        if "middle.1" in name and tensor.ndim == 4:
            tensor = tensor[..., 0, 0]
        state["vae.vae." + name.replace("middle.1", "mid_block.attentions.0")] = tensor
    return state


def test_a_whole_official_checkpoint_loads() -> None:
    inner = dataclasses.replace(INNER, head_dim=64, encoder_dim=64, decoder_dim=64)
    outer = dataclasses.replace(TINY["autoencoder"], widths=(32, 32, 32), groups=32)
    model = filled(FlexTok(resampler=inner, autoencoder=outer))
    options = {"levels": (8, 5, 5), "size": 16}
    loaded = FlexTok.from_official(official_names(model), **options).eval()
    assert loaded.config.autoencoder == outer
    picture = torch.rand(1, 3, 1, 16, 16)
    assert torch.equal(loaded.encode(picture).ids, model.encode(picture).ids)
    halved = FlexTok.from_official(official_names(model), readout=(2.0, 4.0), **options)
    torch.testing.assert_close(halved.resampler.leave.weight * 4, model.resampler.leave.weight)
    with pytest.raises(ConfigError, match="has no"):
        FlexTok.from_official({})
