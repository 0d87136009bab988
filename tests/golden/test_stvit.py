"""STViT-R against its official stage of dumbbell units and a shifted Swin block."""

import torch
from einops import rearrange

from smalti.backbones.stvit_r import official_keys
from smalti.nn.dumbbell import DumbbellConfig, DumbbellStage
from smalti.nn.windows import PatchMerging, WindowBlock
from tests.golden.cases import Case, golden


def configured(about: dict) -> DumbbellConfig:
    return DumbbellConfig(
        window=about["window_size"],
        sample=about["sample_window_size"],
        mlp_ratio=about["mlp_ratio"],
        relative=about["relative_pos"],
        conv_positions=about["use_conv_pos"],
        shortcut=about["shortcut"],
        global_centres=about["use_global"],
        image_size=about["input_resolution"][0] * 16,
    )


def built(about: dict) -> torch.nn.ModuleDict:
    config, dim, heads = configured(about), about["embed_dim"], about["num_heads"]
    shift = config.window // 2
    return torch.nn.ModuleDict(
        {
            "stage": DumbbellStage(config, dim, heads, (0.0,) * about["depth"]),
            "swin_shift": WindowBlock(dim, heads, config.window, shift, mlp_ratio=config.mlp_ratio),
            "downsample": PatchMerging(dim),
        }
    ).eval()


def load(case: Case) -> torch.nn.ModuleDict:
    modules = built(case.config)
    ours = official_keys(case.weights)
    stage = {f"stage.{k}" if k.startswith(("blocks.", "centres")) else k: v for k, v in ours.items()}
    modules.load_state_dict(stage)
    return modules


@golden("stvit")
def test_a_stage_of_dumbbell_units(case: Case):
    modules = load(case)
    height, width = case.config["input_resolution"]
    x = rearrange(case.inputs["x"], "b (h w) c -> b h w c", h=height, w=width)
    with torch.no_grad():
        given = modules["stage"].trace(x)
        for name in case.outputs:
            if name.startswith("block"):
                case.check(name, given[int(name.removeprefix("block"))].flatten(1, 2))
        torch.testing.assert_close(modules["stage"](x), given[-1])
        case.check("stage", modules["downsample"](given[-1]).flatten(1, 2))


@golden("stvit")
def test_a_shifted_block(case: Case):
    height, width = case.config["input_resolution"]
    x = rearrange(case.inputs["x"], "b (h w) c -> b h w c", h=height, w=width)
    with torch.no_grad():
        case.check("swin_shift_block", load(case)["swin_shift"](x).flatten(1, 2))


@golden("stvit")
def test_every_option_of_the_stage_runs(case: Case):
    about = case.config | {
        "embed_dim": 16,
        "num_heads": 4,
        "relative_pos": True,
        "use_conv_pos": True,
        "shortcut": True,
        "use_global": True,
    }
    modules = built(about)
    given = modules["stage"].trace(torch.randn(1, 14, 14, 16))
    assert [tuple(t.shape[1:3]) for t in given[:6]] == [(14, 14), *[(6, 6)] * 4, (14, 14)]
    assert len(given) == about["depth"]
    names = set(modules["stage"].state_dict())
    assert {"centres", "blocks.3.bias.table", "blocks.4.bias.table"} <= names
    assert modules["stage"].state_dict()["blocks.4.bias.table"].shape == (121, 4)
