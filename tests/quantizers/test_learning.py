"""What single quantizers promise beyond the contract."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import ConfigError, FormatError
from smalti.nn.code_gradients import pass_gradient
from smalti.quantizers import (
    FSQ,
    IBQ,
    LFQ,
    DualCodebook,
    Grouped,
    Multiscale,
    Residual,
    Variational,
    VectorQuantizer,
    VectorQuantizerConfig,
)

CLUSTERS = torch.randn(12, 6, generator=torch.Generator().manual_seed(9)) * 4


def clustered(count: int = 600) -> torch.Tensor:
    return CLUSTERS[torch.randint(12, (count,))] + 0.05 * torch.randn(count, 6)


def test_running_means_find_the_clusters() -> None:
    quantizer = VectorQuantizer(codebook_size=64, dim=6, init="kmeans", decay=0.8).train()
    for _ in range(30):
        quantizer(clustered())
    z = clustered()
    assert (quantizer.eval()(z).values - z).norm(dim=-1).max() < 0.4


def test_dead_codes_restart_at_latents_of_the_batch() -> None:
    far = {"codebook_size": 32, "dim": 6, "decay": 0.5}
    used = {}
    for below in (0.0, 1.0):
        quantizer = VectorQuantizer(**far, restart_below=below).train()
        quantizer.codebook[1:] = quantizer.sums[1:] = 1e3
        for _ in range(8):
            quantizer(clustered())
        used[below] = float(quantizer.eval()(clustered()).stats["usage"])
    assert used[0.0] < 0.1
    assert used[1.0] > 0.3


def test_codes_of_an_optimizer_restart_too() -> None:
    quantizer = VectorQuantizer(
        codebook_size=4, dim=6, learn="gradient", decay=0.1, restart_below=1.0
    ).train()
    quantizer.codebook.data[1:] = 1e3
    z = clustered(50)
    quantizer(z)
    assert (quantizer.codebook.data[1:, None] == z).all(-1).any(1).all()


@pytest.mark.parametrize("size", [7, 40])
def test_the_first_codes_are_latents_of_the_first_training_batch(size) -> None:
    quantizer = VectorQuantizer(codebook_size=size, dim=6, init="data", decay=0.9999).train()
    before = quantizer.codebook.clone()
    quantizer.eval()(torch.randn(20, 6))
    assert torch.equal(quantizer.codebook, before)
    z = torch.randn(20, 6)
    quantizer.train()(z)
    assert (torch.cdist(quantizer.codebook, z).amin(1) < 0.05).all()
    quantizer(torch.randn(20, 6) + 50)
    assert quantizer.codebook.abs().max() < 10


def test_codes_are_drawn_in_training_alone() -> None:
    quantizer = VectorQuantizer(codebook_size=16, dim=4, learn="gradient", normalize=True, temperature=0.5)
    z = torch.randn(1, 4)
    assert len(quantizer.eval()(z.expand(400, 4)).ids.unique()) == 1
    assert len(quantizer.train()(z.expand(400, 4)).ids.unique()) > 5


def test_length_does_not_matter_where_codes_are_normalized() -> None:
    quantizer = VectorQuantizer(codebook_size=50, dim=6, normalize=True).eval()
    z = torch.randn(40, 6)
    out = quantizer(z)
    assert torch.equal(quantizer(7.5 * z).ids, out.ids)
    torch.testing.assert_close(out.values.norm(dim=-1), torch.ones(40))
    nearest = (F.normalize(z, dim=-1) @ F.normalize(quantizer.codebook, dim=-1).t()).argmax(1)
    assert torch.equal(out.ids[:, 0], nearest)


def test_rotation_keeps_the_angle_between_gradient_and_code() -> None:
    z, codes, weight = torch.randn(9, 5, requires_grad=True), torch.randn(9, 5), torch.randn(9, 5)
    values = pass_gradient(z, codes, "rotation")
    assert torch.equal(values, codes)
    (values * weight).sum().backward()
    angle = torch.cosine_similarity(z.grad, z)
    torch.testing.assert_close(angle, torch.cosine_similarity(weight, codes), rtol=1e-4, atol=1e-5)
    scale = z.grad.norm(dim=-1) / weight.norm(dim=-1)
    torch.testing.assert_close(scale, codes.norm(dim=-1) / z.norm(dim=-1))


def test_every_code_of_ibq_gets_a_gradient() -> None:
    quantizer = IBQ(codebook_size=30, dim=4, entropy=0.0)
    quantizer.codebook.data.normal_()
    z = torch.randn(300, 4, requires_grad=True)
    out, weight = quantizer(z), torch.randn(300, 4)
    (out.values * weight).sum().backward()
    ours = (z.grad, quantizer.codebook.grad.clone())
    z.grad = quantizer.codebook.grad = None
    share = (z @ quantizer.codebook.t()).softmax(-1)
    index = F.one_hot(share.argmax(-1), 30) + share - share.detach()
    ((index @ quantizer.codebook) * weight).sum().backward()
    torch.testing.assert_close(ours, (z.grad, quantizer.codebook.grad))
    assert (ours[1].abs().sum(-1) > 0).all()


def test_every_code_of_fsq_and_lfq_stands_for_another_value_and_is_met() -> None:
    for quantizer in (FSQ(levels=(8, 6, 5)), LFQ(bits=8)):
        ids = torch.arange(quantizer.codebook_sizes[0])[:, None]
        assert len(quantizer.lookup(ids).unique(dim=0)) == len(ids)
        z = torch.empty(20_000, quantizer.dim).uniform_(-3, 3)
        assert torch.equal(quantizer(z).ids.unique(), ids[:, 0])


def test_the_lowest_bit_is_the_first_channel_and_zero_is_minus_one() -> None:
    out = LFQ(bits=3)(torch.tensor([[0.5, -1.0, 0.0], [-1.0, -1.0, 2.0]]))
    assert out.ids[:, 0].tolist() == [1, 4]
    assert out.values.tolist() == [[1, -1, -1], [-1, -1, 1]]


def test_every_residual_stage_comes_nearer_and_any_prefix_decodes() -> None:
    z = torch.randn(500, 6)
    stage = VectorQuantizerConfig(64, 6, init="kmeans")
    quantizer = Residual(of=stage, depth=4).train()
    quantizer(z)
    out = quantizer.eval()(z)
    errors = [float((quantizer.lookup(out.ids[:, :k]) - z).square().mean()) for k in range(1, 5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 3


def test_residual_dropout_keeps_first_stages_and_passes_the_gradient_once() -> None:
    quantizer = Residual(of=VectorQuantizerConfig(16, 6, commitment=0.0), depth=4, dropout=0.9).train()
    depths = set()
    for _ in range(20):
        z = torch.randn(10, 6, requires_grad=True)
        out = quantizer(z)
        depths.add(out.ids.shape[-1])
        out.values.sum().backward()
        assert torch.equal(z.grad, torch.ones(10, 6))
    assert depths == {1, 2, 3, 4}
    assert quantizer.eval()(z).ids.shape[-1] == 4


def test_groups_that_agree_cost_and_groups_at_right_angles_do_not() -> None:
    stage = VectorQuantizerConfig(2, 2, commitment=0.0)
    quantizer = Grouped(of=stage, groups=2, disentangle=0.1).eval()
    for part in quantizer.parts:
        part.codebook.copy_(3 * torch.eye(2))
    same, apart = torch.tensor([[3.0, 0, 3, 0]]), torch.tensor([[3.0, 0, 0, 3]])
    assert float(quantizer(same).loss) == pytest.approx(0.1)
    assert float(quantizer(apart).loss) == 0


@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0, 1e4])
def test_a_dual_id_is_nearest_in_both_codebooks_together(weight) -> None:
    quantizer = DualCodebook(codebook_size=70, semantic_dim=5, pixel_dim=3, pixel_weight=weight)
    z = torch.randn(200, 8)
    semantic, pixel = (F.normalize(part, dim=-1).double() for part in z.split([5, 3], -1))
    distance = torch.cdist(semantic, quantizer.semantic.double()).square()
    distance = distance + weight * torch.cdist(pixel, quantizer.pixel.double()).square()
    assert torch.equal(quantizer(z).ids[:, 0], distance.argmin(1))


def test_first_scales_decode_and_a_piece_of_a_scale_does_not() -> None:
    quantizer = Multiscale(of=VectorQuantizerConfig(64, 6, init="kmeans"), scales=((1, 1), (3, 2), (6, 4)))
    z = F.interpolate(torch.randn(20, 6, 3, 2), (6, 4), mode="bicubic").movedim(1, -1)
    for _ in range(3):
        quantizer.train()(z)
    out = quantizer.eval()(z)
    assert out.ids.shape == (20, 1 + 6 + 24, 1)
    errors = [float((quantizer.lookup(out.ids[:, :n]) - z).square().mean()) for n in (1, 7, 31)]
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(FormatError, match=r"8 codes end inside a scale: choose one of \[1, 7, 31\]"):
        quantizer.lookup(out.ids[:, :8])


def test_a_posterior_is_drawn_in_training_and_its_divergence_is_that_of_torch() -> None:
    quantizer = Variational(dim=3, kl=0.5)
    z = torch.randn(4000, 6)
    normal = torch.distributions.Normal
    posterior = normal(z[:, :3], (0.5 * z[:, 3:]).exp())
    expected = torch.distributions.kl_divergence(posterior, normal(0.0, 1.0)).sum(-1).mean()
    torch.testing.assert_close(quantizer.train()(z).loss, 0.5 * expected)
    drawn = (quantizer(z).values - z[:, :3]) / (0.5 * z[:, 3:]).exp()
    assert abs(float(drawn.mean())) < 0.05
    assert float(drawn.std()) == pytest.approx(1, abs=0.05)
    assert torch.equal(quantizer.eval()(z).values, z[:, :3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VectorQuantizer(codebook_size=0), "sizes of at least 1"),
        (lambda: VectorQuantizer(decay=1.0), "decay"),
        (lambda: VectorQuantizer(codebok_size=4), "did you mean 'codebook_size'"),
        (lambda: FSQ(levels=(8, 2)), "3 or more"),
        (lambda: LFQ(bits=63), "1 to 62 bits"),
        (lambda: LFQ(bits=36, group_bits=30), "at most 24"),
        (lambda: Residual(depth=0), "at least one stage"),
        (lambda: Grouped(groups=0), "at least one group"),
        (lambda: DualCodebook(pixel_weight=-1.0), "must not be negative"),
        (lambda: Multiscale(scales=((2, 2), (1, 4))), "none above the last"),
        (lambda: Multiscale(scales=()), "1 to 3 axes"),
    ],
)
def test_configurations_that_mean_nothing_are_refused(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
