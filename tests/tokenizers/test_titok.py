from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from smalti import create
from smalti.errors import ConfigError, FormatError
from smalti.tokenizers.one_dimensional import ONE_STAGE, ProxyConfig, variational
from smalti.tokenizers.titok import TiTok, TiTokConfig
from smalti.tokenizers.titok_proxy import ProxyVQGAN
from tests.tokenizers.tiny_titok import TINY

CONFIG = TiTokConfig(**TINY)
ONE_STAGE_CONFIG = dataclasses.replace(CONFIG, proxy=None)
CONTINUOUS = dataclasses.replace(ONE_STAGE_CONFIG, quantizer=variational(4, 6))


def picture(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, CONFIG.size, CONFIG.size)


def official_state(model: TiTok) -> dict[str, Tensor]:
    """The model's weights under the authors' names."""
    names = [
        ("proxy_codes", "pixel_quantize.embedding.weight"),
        ("proxy_decoder.", "pixel_decoder."),
        ("quantizer.codebook", "quantize.embedding.weight"),
        ("encoder.latents", "latent_tokens"),
        ("encoder.out.", "encoder.conv_out."),
        ("latent_positions", "latent_token_positional_embedding"),
        (".positions", ".positional_embedding"),
        (".qkv.", ".in_proj_"),
        (".attn.proj.", ".attn.out_proj."),
        ("blocks.", "transformer."),
        (".norm1.", ".ln_1."),
        (".norm2.", ".ln_2."),
        ("fc1", "c_fc"),
        ("fc2", "c_proj"),
        ("decoder.embed.", "decoder.decoder_embed."),
    ]
    state = {}
    for key, tensor in model.state_dict().items():
        name = key
        if not name.startswith("proxy_decoder."):
            for ours, theirs in names[2:]:
                name = name.replace(ours, theirs)
        for ours, theirs in names[:2]:
            name = name.replace(ours, theirs)
        name = name.replace("head.", "decoder.ffn.") if name.startswith("head.") else name
        if not name.startswith("quantizer."):
            state[name] = tensor
    return state


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("titok_s128", 83_674_639),
        ("titok_b64", 204_814_095),
        ("titok_l32", 641_054_735),
        ("titok_bl64_vq8k", 390_016_148),
        ("titok_ll32_vae_c16", 606_879_604),
    ],
)
def test_presets_have_the_official_number_of_parameters(preset, count) -> None:
    with torch.device("meta"):
        model = create("titok", preset)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert model.compression == (1, 256, 256)


def test_32_tokens_are_48_bytes() -> None:
    with torch.device("meta"):
        model = create("titok", "titok_l32")
    assert model.length * math.log2(model.codebook_sizes[0]) / 8 == 48


def test_a_picture_is_so_many_ids_and_larger_ones_are_tiles() -> None:
    model = TiTok(CONFIG).eval()
    tokens = model.encode(torch.rand(2, 3, 1, 16, 16))
    assert tokens.ids.shape == (2, CONFIG.length, 1)
    assert model.encode(torch.rand(1, 3, 1, 17, 40)).ids.shape == (1, 6 * CONFIG.length, 1)
    with pytest.raises(FormatError, match="all of them are needed"):
        model.decode(tokens[:3])


def test_scrambling_alone_mixes_tokens() -> None:
    touched = {}
    for scrambled in (False, True):
        torch.manual_seed(3)
        model = TiTok(dataclasses.replace(CONFIG, scrambled=scrambled)).eval()
        before = model.encoder(picture(1) * 0 + 0.3)

        def edit(_module, _given, out: Tensor) -> Tensor:
            changed = out.clone()
            changed[:, 2] += torch.randn(out.shape[-1])
            return changed

        model.encoder.ln_post.register_forward_hook(edit)
        moved = (model.encoder(picture(1) * 0 + 0.3) - before).abs().amax((0, 2)) > 1e-6
        touched[scrambled] = moved.nonzero().flatten().tolist()
    assert touched[False] == [2]
    assert len(touched[True]) == CONFIG.length


def test_codes_have_length_one_and_lengths_of_latents_do_not_matter() -> None:
    model = TiTok(CONFIG)
    z = torch.randn(2, 6, 2, requires_grad=True)
    found = model.quantizer(z)
    assert torch.equal(found.ids, model.quantizer(z * 7.3).ids)
    torch.testing.assert_close(found.values.norm(dim=-1), torch.ones(2, 6))
    weight = torch.randn_like(found.values)
    (gradient,) = torch.autograd.grad((found.values * weight).sum(), z)
    wanted = torch.autograd.grad((F.normalize(z, dim=-1) * weight).sum(), z)[0]
    torch.testing.assert_close(gradient, wanted)


def test_every_code_changes_the_picture() -> None:
    model = TiTok(CONFIG).eval()
    ids = torch.arange(CONFIG.length)[None, :, None] * 100
    with torch.no_grad():
        before = model.decode_tiles(ids)
        for place in range(CONFIG.length):
            other = ids.clone()
            other[:, place] = 777
            assert not torch.equal(model.decode_tiles(other), before)


@pytest.mark.parametrize("config", [CONFIG, ONE_STAGE_CONFIG, CONTINUOUS])
def test_everything_learns(config) -> None:
    model = TiTok(config).train()
    pixels = picture()
    out = model(pixels)
    assert out.pixels.shape == pixels.shape
    assert (out.logits is None) == (config.proxy is None)
    (F.mse_loss(out.pixels, pixels) + out.quantized.loss).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_the_second_stage_trains_decoders_alone() -> None:
    model = TiTok(CONFIG).train()
    model.freeze_encoder()
    F.mse_loss(model(picture()).pixels, picture()).backward()
    learnt = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert learnt == {"decoder", "head", "proxy_codes", "proxy_decoder"}


def test_a_step_towards_the_pictures_lowers_the_loss() -> None:
    model = TiTok(ONE_STAGE_CONFIG).train()
    pixels = picture(4)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        out = model(pixels)
        loss = F.mse_loss(out.pixels, pixels)
        optimizer.zero_grad()
        (loss + out.quantized.loss).backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_continuous_tokens_are_values() -> None:
    model = TiTok(CONTINUOUS).eval()
    tokens = model.encode(torch.rand(1, 3, 1, 16, 16))
    assert tokens.ids is None
    assert tokens.values.shape == (1, 6, 4)
    assert model.decode(tokens).shape == (1, 3, 1, 16, 16)


def test_half_precision_runs() -> None:
    model = TiTok(CONFIG).eval().bfloat16()
    back = model.decode(model.encode(torch.rand(1, 3, 1, 20, 16)))
    assert back.shape == (1, 3, 1, 20, 16)
    assert back.dtype == torch.float32
    assert model.quantizer.codebook.dtype == torch.float32


def test_official_names_are_read_and_wrong_ones_refused() -> None:
    model = TiTok(dataclasses.replace(CONFIG, scrambled=True)).eval()
    state = official_state(model)
    read = TiTok.from_official(state, heads=(4, 4)).eval()
    assert read.config == model.config
    pixels = picture(1)
    torch.testing.assert_close(read(pixels).pixels, model(pixels).pixels)
    with pytest.raises(ConfigError, match=r"missing \['decoder.ln_post.bias'\]"):
        TiTok.from_official({k: v for k, v in state.items() if k != "decoder.ln_post.bias"}, heads=(4, 4))
    with pytest.raises(ConfigError, match=r"has no encoder\.ln_pre\.weight"):
        TiTok.from_official({"weight": torch.zeros(1)})
    first_stage = {k: v for k, v in state.items() if not k.startswith("pixel_")}
    with pytest.raises(ConfigError, match="first stage"):
        TiTok.from_official(first_stage, heads=(4, 4))


def test_the_proxy_gives_targets_and_then_its_decoder() -> None:
    proxy = ProxyVQGAN(CONFIG.proxy).eval()
    pixels = picture()
    ids = proxy.encode(pixels)
    assert ids.shape == (2, 4, 4)
    back = proxy.decode(ids)
    assert back.shape == pixels.shape
    assert 0 <= back.min() <= back.max() <= 1
    model = TiTok(CONFIG).eval()
    proxy.hand_over(model)
    certain = 1e4 * F.one_hot(ids, CONFIG.proxy.codes).float()  # a decoder sure of its codes paints them
    torch.testing.assert_close(model.render(certain).clamp(0, 1), back)
    F.cross_entropy(model(pixels).logits.movedim(-1, 1), ids).backward()
    with pytest.raises(ConfigError, match="do not fit TiTok"):
        proxy.hand_over(TiTok(ONE_STAGE_CONFIG))


def test_the_proxy_reads_official_names() -> None:
    proxy = ProxyVQGAN(ProxyConfig(8, 4, 32, (1, 2), 1)).eval()
    state = {k: v for k, v in proxy.state_dict().items() if not k.startswith("quantizer.")}
    read = ProxyVQGAN.from_official(state | {"quantize.embedding.weight": proxy.quantizer.codebook.data})
    assert read.config == proxy.config
    same = picture(1)
    assert torch.equal(read.eval().encode(same), proxy.encode(same))


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not fill pictures of 18"):
        dataclasses.replace(CONFIG, size=18)


def test_a_proxy_of_another_scale_is_refused() -> None:
    model = TiTok(dataclasses.replace(CONFIG, proxy=ProxyConfig(16, 32, 32, (1, 2), 1))).eval()
    with pytest.raises(ConfigError, match="2 pixels of a place, but patches have 4"):
        model.decode(model.encode(torch.rand(1, 3, 1, 16, 16)))


def test_the_one_stage_codebook_is_not_normalised() -> None:
    model = TiTok(dataclasses.replace(ONE_STAGE_CONFIG, quantizer=dataclasses.replace(ONE_STAGE, dim=4)))
    assert model.quantizer.codebook.abs().max() <= 1 / 8192
    assert model.quantizer.lookup(torch.tensor([[0]])).norm() < 0.01


def test_any_size_is_reconstructed_with_gradients() -> None:
    model = TiTok(CONFIG).eval()
    pixels = torch.rand(2, 3, 2, 20, 16)
    out = model.reconstruct(pixels)
    torch.testing.assert_close(out.pixels.clamp(0, 1), model.decode(model.encode(pixels)))
    (out.pixels.sum() + out.loss).backward()
    assert model.encoder.patch_embed.weight.grad.any()
    assert set(out.parts) == {"usage", "perplexity"}
