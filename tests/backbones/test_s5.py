"""S5: what the mask keeps, what gets gradients, what it costs, official names, its training."""

from __future__ import annotations

import pytest
import torch

import smalti
from smalti.backbones.s5 import S5, S5Config, frame_tokens
from smalti.backbones.s5_training import (
    LongShortContrast,
    Queue,
    batch_contrast,
    info_nce,
    long_and_short,
    parameter_groups,
    selective_loss,
    share_loss,
    task_loss,
)
from smalti.errors import ConfigError
from smalti.nn.flops import count_flops
from smalti.tokens import Tokens

TINY = {"inputs": 12, "dim": 16, "depth": 2, "length": 32, "classes": 3, "state": 8}


def build(**options) -> S5:
    torch.manual_seed(0)
    return S5(S5Config(**TINY | options)).eval()


def values(batch=2, tokens=32):
    return torch.randn(batch, tokens, 12, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_keeping_all_is_the_plain_decoder():
    model = build(keep=1.0)
    assert model.generator is None
    assert model.slow is None
    features, masked = model.read(values())
    torch.testing.assert_close(model.classify(features), model.online(values()))
    assert masked.mask.all()


@pytest.mark.parametrize("tokens", [32, 31, 50])
@pytest.mark.parametrize("keep", [0.5, 0.3])
@torch.no_grad()
def test_a_share_of_the_tokens_is_left_in_order(tokens, keep):
    model = build(keep=keep)
    features, masked = model.read(values(tokens=tokens))
    count = round(keep * tokens)
    assert masked.tokens.shape == (2, count, 16)
    assert (masked.reduction.index.diff(dim=-1) > 0).all()
    assert masked.mask.sum(1).tolist() == [count] * 2
    assert features.tokens.shape == (2, count // 4, 4)
    encoded = model.online.encoder(values(tokens=tokens))
    logits = model.logits(encoded, values(tokens=tokens))
    best = (logits[..., 0] - logits[..., 1]).topk(count).indices.sort(-1).values
    assert torch.equal(masked.reduction.index, best)
    assert torch.equal(masked.tokens[0], encoded[0, best[0]])


@torch.no_grad()
def test_zeroing_keeps_the_length():
    dropped, zeroed = build(), build(masking="zero")
    zeroed.load_state_dict(dropped.state_dict())
    one, other = dropped.read(values())[1], zeroed.read(values())[1]
    assert torch.equal(one.mask, other.mask)
    assert other.tokens.shape == (2, 32, 16)
    assert torch.equal(other.tokens[other.mask.bool()].view(2, 16, 16), one.tokens)
    assert not other.tokens[~other.mask.bool()].any()


@torch.no_grad()
def test_another_scorer_may_choose():
    logits = torch.zeros(2, 32, 2)
    logits[:, 5:21, 0] = 1
    _, masked = build().read(values(), logits)
    assert masked.reduction.index.tolist() == [list(range(5, 21))] * 2


@torch.no_grad()
def test_the_guide_sees_what_came_before_and_the_generator_all():
    guided, alone = build(), build(guided=False)
    x = values()
    changed = x.clone()
    changed[:, 10] += 3
    for model, moved in ((guided, range(10, 32)), (alone, range(10, 11))):
        h = [model.slow.look(v) if model.slow else model.online.encoder(v) for v in (x, changed)]
        differs = ((h[0] - h[1]).abs().amax((0, 2)) > 1e-4).nonzero().flatten().tolist()
        assert differs == list(moved)
        one, other = (model.logits(model.online.encoder(v), v) for v in (x, changed))
        assert not torch.allclose(one[:, 0], other[:, 0])  # by the mean over all tokens


def test_training_teaches_mask_and_decoder_but_not_the_slow_copy():
    model = build().train()
    assert not model.slow.training
    loss, figures = selective_loss(model, values(4), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert 0 <= float(figures["kept"]) <= 1
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("slow."), name
    assert all(p.grad.any() for p in model.generator.parameters())
    before = {name: p.clone() for name, p in model.slow.named_parameters()}
    with torch.no_grad():
        for parameter in model.online.parameters():
            parameter.add_(1.0)
    model.update()
    for name, parameter in model.slow.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.01, atol=1e-5, rtol=1e-5)


def test_the_share_loss_pulls_the_logits_the_right_way():
    for keep, sign in ((0.01, 1), (0.99, -1)):
        logits = torch.zeros(4, 64, 2, requires_grad=True)
        mask = torch.nn.functional.gumbel_softmax(logits, hard=True)[..., 0]
        share_loss(mask, keep).backward()
        assert (logits.grad[..., 0].mean() * sign) > 0


def test_dropping_while_training_gives_the_generator_gradients():
    model = build(masking="drop").train()
    loss, _ = selective_loss(model, values(), torch.tensor([0, 1]), weight=0.0)
    loss.backward()
    assert model.generator.score[0].weight.grad.any()
    assert model.mask(model.online.encoder(values()), values()).tokens.shape == (2, 16, 16)


def test_the_state_spaces_of_a_preset_and_their_cost():
    smalti.systems("backbones")
    with torch.device("meta"):
        model = smalti.create("s5", "vis4mer-lvu-genre", room="backbones")
    widths = (1024, 512, 256)
    wanted = sum(
        d * d + d  # project
        + d * (d // 2) + d // 2  # shrink
        + 3 * d  # norm and skip
        + d + 64 + d * 4 * 64  # dt, w, B and C
        for d in widths
    ) + 128 * 4 + 4  # fmt: skip
    assert model.params() == wanted
    small = build(keep=1.0, inputs=16, classes=0)
    products = 32 * (256 + 128) + 16 * (64 + 32) - 16 * 128 - 8 * 32
    kernels = 2 * 8 * 4 * (16 * 17 + 8 * 9)  # two real products for each of the fractions
    assert small.flops((1, 32, 16)) == products + kernels


def test_half_the_tokens_cost_the_decoder_half():
    smalti.systems("backbones")
    with torch.device("meta"):
        decoder, tokens = (
            smalti.create("s5", room="backbones", keep=1.0, length=512).online,
            torch.empty(8, 512, 1024),
        )
    kernels = count_flops(decoder, tokens[:0])
    whole, half = (count_flops(decoder, part) - kernels for part in (tokens, tokens[:, :256]))
    assert half == pytest.approx(whole / 2, rel=0.02)


def test_bf16_is_near_float32():
    model = build(keep=1.0)
    with torch.no_grad():
        exact = model.read(values())[0].pooled
        half = model.bfloat16().read(values().bfloat16())[0].pooled
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.2)


def official(model: S5, length: int) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in model.online.state_dict().items():
        parts = name.split(".")
        if parts[0] != "blocks":
            state[name] = tensor
            continue
        number, rest = parts[1], ".".join(parts[2:])
        for ours, theirs in (
            ("mix.kernel.", "s4_layers.N.kernel.krylov."),
            ("mix.project.", "s4_layers.N.output_linear."),
            ("mix.skip", "s4_layers.N.D"),
            ("norm.", "norms.N."),
            ("shrink.", "linears.N."),
        ):
            if rest.startswith(ours):
                rest = theirs.replace("N", number) + rest.removeprefix(ours)
                break
        state[rest] = tensor[:, None] if rest.endswith("output_linear.bias") else tensor
    for number in range(model.config.depth):
        steps = length >> number
        angle = -2 * torch.pi / steps * torch.arange(steps // 2 + 1)
        nodes = torch.stack([angle.cos(), angle.sin()], -1)
        state[f"s4_layers.{number}.kernel.krylov.nodes"] = nodes
        state[f"s4_layers.{number}.kernel.krylov.z"] = nodes
    state.setdefault("encoder.weight", torch.randn(16, model.config.inputs))
    state.setdefault("encoder.bias", torch.randn(16))
    return state


@pytest.mark.parametrize("length", [32, 37])
@pytest.mark.parametrize("inputs", [12, 16])
def test_official_names_load(length, inputs, tmp_path):
    model = build(keep=1.0, guided=False, length=length, inputs=inputs)
    torch.save({"model": official(model, length)}, tmp_path / "vis4mer.pt")
    again = smalti.load_official("s5", tmp_path / "vis4mer.pt", room="backbones")
    assert again.config == model.config
    tokens = Tokens(values=torch.randn(2, length, inputs))
    with torch.no_grad():
        assert torch.equal(again(tokens).pooled, model(tokens).pooled)
    selective = smalti.load_official("s5", tmp_path / "vis4mer.pt", room="backbones", keep=0.5)
    assert torch.equal(selective.slow.decoder.weight, model.online.decoder.weight)


def test_tokens_of_frames_come_in_order_of_time():
    pixels = torch.rand(2, 3, 5, 8, 8)
    tokens = frame_tokens(lambda x: x.flatten(2).mT[:, :7], pixels, batch=3)
    assert tokens.shape == (2, 35)
    torch.testing.assert_close(tokens.values[1, 7 * 3 + 2], pixels[1, :, 3, 0, 2])


def test_refusals():
    model = build()
    with pytest.raises(ConfigError, match="frame_tokens"):
        model(torch.rand(1, 3, 2, 8, 8))
    with pytest.raises(ConfigError, match="13 channels"):
        model(Tokens(values=torch.rand(1, 8, 13)))
    with pytest.raises(ConfigError, match="longer sequence"):
        model(Tokens(values=torch.rand(1, 3, 12)))
    with pytest.raises(ConfigError, match="share"):
        S5Config(keep=0.0)
    with pytest.raises(ConfigError, match="halved"):
        S5Config(dim=12)
    with pytest.raises(ConfigError, match=r"encoder\.weight"):
        S5.from_official({"weight": torch.zeros(1)})
    with pytest.raises(ConfigError, match="slow copy"):
        LongShortContrast(build(keep=1.0))


# --- training


def test_decay_spares_a_b_and_dt():
    groups = parameter_groups(build(), rate=3e-3)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(1e-3, 0.0), (3e-3, 0.01)]
    assert len(groups[0]["params"]) == 3 * 2
    every = [p for g in groups for p in g["params"]]
    assert len(every) == sum(p.requires_grad for p in build().parameters())


def test_losses_of_classes_and_numbers():
    prediction = torch.tensor([[2.0], [0.0]])
    assert task_loss(prediction, torch.tensor([1.0, 1.0])) == 1.0
    assert task_loss(torch.zeros(2, 4), torch.tensor([0, 3])) == pytest.approx(torch.tensor(4.0).log().item())


def test_contrast_by_hand():
    q, k = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    wanted = -torch.log(torch.e ** torch.tensor(2.0) / (torch.e**2 + 1))
    torch.testing.assert_close(batch_contrast(q, k, 0.5), wanted)
    torch.testing.assert_close(info_nce(q[:1], k[:1], torch.tensor([[0.0, 5.0]]), 0.5), wanted)


def test_the_queue_forgets_the_oldest():
    queue = Queue(4, 2)
    old = queue.keys.clone()
    queue.push(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
    assert torch.equal(queue.keys, torch.cat([old[2:], torch.eye(2)]))


def test_short_clips_lie_inside_long_ones():
    frames = torch.arange(12.0).view(1, 12, 1, 1).expand(5, 12, 2, 3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        short, long = long_and_short(frames, 3, 7, generator)
        assert (short.shape, long.shape) == ((5, 6, 3), (5, 14, 3))
        assert (short[:, 0, 0] >= long[:, 0, 0]).all()
        assert (short[:, -1, 0] <= long[:, -1, 0]).all()
        assert torch.equal(long[:, ::2, 0].diff(dim=1), torch.ones(5, 6))
    with pytest.raises(ConfigError, match="cannot be cut"):
        long_and_short(frames, 3, 13)


def test_contrast_teaches_short_clips_their_long_ones():
    model = build(dropout=0.0).train()
    contrast = LongShortContrast(model, dim=8, queue=0, momentum=0.9)
    generator = torch.Generator().manual_seed(3)
    videos = torch.randn(12, 1, 1, 12, generator=generator)
    videos = videos + 0.25 * torch.randn(12, 16, 2, 12, generator=generator)
    optimiser = torch.optim.AdamW([p for p in contrast.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(40):
        loss = contrast(*long_and_short(videos, 6, 12, generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        contrast.update()
        losses.append(loss.item())
    assert all(p.grad is None for p in model.slow.parameters())
    assert sum(losses[-8:]) < 0.6 * sum(losses[:8])


def test_the_queue_holds_keys_of_the_slow_copy():
    contrast = LongShortContrast(build().train(), dim=8, queue=4)
    short, long = values(2, 12), values(2, 24)
    contrast(short, long).backward()
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(contrast.embed(long, slow=True), dim=-1)
    torch.testing.assert_close(contrast.queue.keys[2:], wanted)
