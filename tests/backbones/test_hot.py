"""HoT's models: shapes, arithmetic, official layouts, losses and mirrors."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from smalti.backbones.hot import HoT, HoTConfig, lift_with_flip
from smalti.backbones.pose import JOINT_WEIGHTS, DSTformerConfig, MixSTEConfig, flip_pose, pose_loss
from smalti.errors import ConfigError

MIXSTE = MixSTEConfig(frames=12, joints=5, dim=16, depth=3, heads=2, hidden=32)
MOTIONBERT = DSTformerConfig(frames=12, joints=5, dim=16, features=24, depth=3, heads=2, ratio=2.0)
HOSTS = [MIXSTE, MOTIONBERT]


def build(**options) -> HoT:
    torch.manual_seed(0)
    model = HoT(HoTConfig(**{"host": MIXSTE, "tokens": 5, "layer": 1} | options)).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)  # positions that start at zero would hide mistakes
    return model


def poses(host=MIXSTE, batch: int = 2) -> torch.Tensor:
    channels = 2 if isinstance(host, MixSTEConfig) else 3
    return torch.randn(batch, host.frames, host.joints, channels, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("host", HOSTS, ids=["mixste", "motionbert"])
@pytest.mark.parametrize("recover", ["attention", "linear", "nearest"])
def test_a_sequence_comes_back_whole(host, recover) -> None:
    model = build(host=host, recover=recover)
    lifted = model(poses(host))
    assert lifted.poses.shape == (2, 12, 5, 3)
    assert lifted.index.shape == (2, 5)
    assert (lifted.index.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("host", HOSTS, ids=["mixste", "motionbert"])
def test_one_target_frame_keeps_the_middle(host) -> None:
    model = build(host=host, target="frame")
    lifted = model(poses(host))
    assert lifted.poses.shape == (2, 5, 5, 3)
    assert (lifted.index == 5).any(-1).all()
    assert model.recovery is None


@pytest.mark.parametrize("host", HOSTS, ids=["mixste", "motionbert"])
@pytest.mark.parametrize("layer", [1, 2])
def test_keeping_all_frames_changes_nothing(host, layer) -> None:
    whole = build(host=host, tokens=None)
    same = build(host=host, tokens=12, layer=layer, recover="linear")
    same.host.load_state_dict(whole.host.state_dict())
    torch.nn.init.zeros_(same.reduced_position)
    lifted = same(poses(host))
    assert torch.equal(lifted.index, torch.arange(12).expand(2, -1))
    torch.testing.assert_close(lifted.poses, whole(poses(host)).poses)
    recovered = build(host=host, tokens=12, layer=layer)(poses(host))
    assert recovered.poses.shape == (2, 12, 5, 3)


def test_frames_that_are_given_are_kept() -> None:
    index = torch.tensor([[0, 2, 5, 7, 11], [1, 2, 3, 5, 8]])
    assert torch.equal(build(target="frame")(poses(), index).index, index)


def linear_flops(config: HoTConfig) -> float:
    """Arithmetic of all linear layers on one sequence, which is what the paper counts, in units of 1e9."""
    with torch.device("meta"):
        model = HoT(config).eval()
        pose = torch.empty(1, 243, 17, model.host.channels)
    counter = FlopCounterMode(display=False)
    with counter:
        model(pose)
    counts = counter.get_flop_counts()["Global"]
    return sum(flops for op, flops in counts.items() if str(op) in ("aten.addmm", "aten.mm")) / 1e9


def test_forty_percent_of_mixste_and_half_of_motionbert_are_saved() -> None:
    assert linear_flops(HoTConfig(tokens=None)) == pytest.approx(277.2, abs=0.3)
    assert linear_flops(HoTConfig()) == pytest.approx(167.5, abs=0.3)
    assert linear_flops(HoTConfig(host=DSTformerConfig(), tokens=None)) == pytest.approx(131.1, abs=0.6)
    assert linear_flops(HoTConfig(host=DSTformerConfig(), layer=1)) == pytest.approx(63.2, abs=0.6)


OURS_TO_OFFICIAL = {
    "reduced_position": "pos_embed_token",
    "recovery.queries": "x_token",
    "recovery.attention.": "cross_attention.",
    "host.joint_position": ("Spatial_pos_embed", "pos_embed"),
    "host.frame_position": ("Temporal_pos_embed", "temp_embed"),
    "host.embedding.": ("Spatial_patch_to_embedding.", "joints_embed."),
    "host.spatial_norm.": "Spatial_norm.",
    "host.temporal_norm.": "Temporal_norm.",
    "host.spatial.": "STEblocks.",
    "host.temporal.": "TTEblocks.",
    "host.space_first.": "blocks_st.",
    "host.time_first.": "blocks_ts.",
    "host.mixers.": "ts_attn.",
    "host.features.": "pre_logits.",
    "host.norm.": "norm.",
    "host.head.": "head.",
}


def official_state(model: HoT, prefix: str = "") -> dict[str, torch.Tensor]:
    """The model's tensors under the names of the official code."""
    motionbert = isinstance(model.config.host, DSTformerConfig)
    state = {}
    for name, tensor in model.state_dict().items():
        ours = next(key for key in OURS_TO_OFFICIAL if name.startswith(key))
        official = OURS_TO_OFFICIAL[ours]
        official = official[motionbert] if isinstance(official, tuple) else official
        name = official + name.removeprefix(ours)
        for block, suffix in ((".spatial.", "_s."), (".temporal.", "_t.")):
            if block in name:
                stream, part = name.split(block)
                name = f"{stream}." + part.replace(".", suffix, 1)
        if name.startswith("cross_attention."):
            name = name.replace(".q.", ".linear_q.")
        if ".kv." in name:
            for side, half in zip("kv", tensor.chunk(2), strict=True):
                state[prefix + name.replace(".kv.", f".linear_{side}.")] = half
            continue
        state[prefix + name] = tensor
    return state


@pytest.mark.parametrize("host", HOSTS, ids=["mixste", "motionbert"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_names_load(host, prefix) -> None:
    model = build(host=host)
    state = official_state(model, prefix)
    names = {name.removeprefix(prefix) for name in state}
    expected = (
        {"blocks_ts.2.attn_t.qkv.weight", "blocks_st.0.norm2_s.bias", "pre_logits.fc.weight", "temp_embed"}
        if host is MOTIONBERT
        else {"STEblocks.0.attn.qkv.weight", "TTEblocks.2.mlp.fc2.bias", "head.1.weight"}
    )
    assert expected | {"x_token", "cross_attention.linear_k.weight"} <= names
    loaded = HoT.from_official(state, heads=2, layer=1).eval()
    assert torch.equal(loaded(poses(host)).poses, model(poses(host)).poses)


def test_a_checkpoint_without_recovery_is_for_one_frame_or_unpruned() -> None:
    model = build(target="frame")
    state = official_state(model)
    loaded = HoT.from_official(state, heads=2, layer=1, tokens=5).eval()
    assert torch.equal(loaded(poses()).poses, model(poses()).poses)
    assert HoT.from_official(state, heads=2).config.tokens is None


def test_foreign_checkpoints_are_refused() -> None:
    with pytest.raises(ConfigError, match="neither"):
        HoT.from_official({"weight": torch.zeros(2)})
    state = official_state(build())
    del state["head.1.bias"]
    with pytest.raises(ConfigError, match=r"head\.1\.bias"):
        HoT.from_official(state, heads=2, layer=1)


def test_options_and_sizes_that_do_not_fit_are_refused() -> None:
    for options in ({"tokens": 13}, {"tokens": 0}, {"layer": 0}, {"layer": 3}):
        with pytest.raises(ConfigError):
            build(**options)
    with pytest.raises(ConfigError, match="12 frames"):
        build()(poses()[:, :11])
    with pytest.raises(ConfigError, match="weights"):
        pose_loss(torch.zeros(1, 2, 5, 3), torch.zeros(1, 2, 5, 3))


def test_the_loss_by_hand() -> None:
    target = torch.zeros(1, 2, 17, 3)
    target[:, :, 0] = 9  # the root is put to zero
    found = torch.zeros(1, 2, 17, 3)
    found[0, 1, 13, 0] = 3.0  # weight 4, off by 3 in one of two frames
    position = 4 * 3 / 34
    smooth = 4 * 9 / 51
    velocity = 3 / 17
    expected = torch.tensor(position + 0.5 * smooth + 2 * velocity)
    torch.testing.assert_close(pose_loss(found, target), expected)
    assert len(JOINT_WEIGHTS) == 17
    assert (target[:, :, 0] == 9).all()


def test_mirroring_twice_is_nothing_and_swaps_sides() -> None:
    pose = torch.randn(1, 2, 17, 3)
    assert torch.equal(flip_pose(flip_pose(pose)), pose)
    assert torch.equal(flip_pose(pose)[:, :, 4], pose[:, :, 1] * torch.tensor([-1.0, 1, 1]))


@pytest.mark.parametrize("target", ["sequence", "frame"])
def test_the_mean_with_a_mirrored_pass_is_symmetric(target) -> None:
    host = MixSTEConfig(frames=12, joints=17, dim=16, depth=2, heads=2, hidden=32)
    model = build(host=host, target=target)
    pose = poses(host)
    lifted = lift_with_flip(model, pose)
    mirrored = model(flip_pose(pose), lifted.index if target == "frame" else None)
    torch.testing.assert_close(lifted.poses, (model(pose).poses + flip_pose(mirrored.poses)) / 2)
    assert torch.equal(lifted.index, model(pose).index)


def test_everything_learned_gets_a_gradient() -> None:
    model = build()
    pose_loss(model(poses()).poses, torch.randn(2, 12, 5, 3), weights=(1.0,) * 5).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
