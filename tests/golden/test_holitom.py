"""HoliTom's windows, merging and its pruning of a small Qwen2 decoder against the official functions."""

import pytest
import torch

from smalti.nn.clustering import density_peaks
from smalti.reducers import Assign, Context
from smalti.reducers.holitom import HoliTom, HoliTomConfig, similarities, with_newlines
from smalti.reducers.holitom_inner import HoliTomInner, HoliTomInnerConfig, between, positions
from tests.golden.cases import Case, golden


def reducer(case: Case, **changes) -> HoliTom:
    config = case.config
    given = {
        "ratio": config["retain_ratio"],
        "tau": config["tau"],
        "beta": config["beta"],
        "plain_mean": config["plain_mean"],
        "contextual": config["D"],
        "neighbours": config["K"],
        "longest": config["max_window"],
        "newline": config["newline_position"],
    }
    return HoliTom(HoliTomConfig(**given | changes))


@golden("holitom", "case_*")
def test_windows_and_tokens(case: Case):
    config, video, attention = case.config, case.inputs["feat"], case.inputs["attn"]
    frames, side = config["frames"], config["grid"]
    holitom = reducer(case)
    plan = holitom.plan(video)
    case.check("sim", similarities(video))
    case.check("windows", torch.tensor(plan.windows))
    case.check("reduced", torch.tensor([float(plan.saved)]))
    case.check("ratio", torch.tensor([plan.ratio]))

    flat = attention.reshape(1, -1)
    context = Context(attention=lambda queries: flat, grid=(frames, side, side))
    tokens = video.reshape(1, -1, config["dim"])
    reduction = holitom.reduce(tokens, context)
    found = reduction.apply(tokens)[0]
    anchor = holitom.layout(video, attention, plan).anchor
    window = torch.tensor([first for first, _ in plan.windows])
    window = torch.searchsorted(window, anchor // side**2, right=True) - 1
    per_window = window.bincount(minlength=len(plan.windows))
    if config["newline_position"] == "grid":
        found = with_newlines(found, anchor, case.inputs["newline"], side)
        rows = (anchor // side).unique()
        first = torch.tensor([a for a, _ in plan.windows])
        per_window += (torch.searchsorted(first, rows // side, right=True) - 1).bincount(
            minlength=len(plan.windows)
        )
    case.check("tokens", found)
    case.check("tokens_per_window", per_window)


@golden("holitom", "case_*")
def test_density_peaks(case: Case):
    x, count = case.inputs["dpc_x"], case.config["dpc_cluster_num"]
    centres, _ = density_peaks(x, count, case.config["dpc_k"])
    case.check("dpc_centers", centres)
    merger = reducer(case, neighbours=case.config["dpc_k"])
    # a film that stands still: every token of the sample is a still place of its two equal frames
    for sample, merged in zip(x, case.outputs["dpc_merged"], strict=True):
        film = sample.expand(2, -1, -1)
        plan = merger.plan(film)._replace(
            windows=((0, 1),),
            still=torch.ones(1, len(sample), dtype=torch.bool),
            still_kept=(count,),
            moving_kept=(0, 0),
        )
        group, share, _ = merger.layout(film, torch.zeros(2, len(sample)), plan)
        tokens = Assign(group.view(1, -1), count, share.view(1, -1)).apply(
            film.reshape(1, -1, film.shape[-1])
        )
        torch.testing.assert_close(tokens[0], merged, atol=case.tolerance, rtol=case.tolerance)


@golden("holitom", "inner_case_*")
@pytest.mark.parametrize("causal", [True, False])
def test_inside_a_decoder(case: Case, causal: bool):
    model = decoder(case)
    config, x = case.config, case.inputs["inputs_embeds"]
    start, size, layer = config["visual_start"], config["visual_len"], config["inner_layer_k"]
    length = x.shape[1]
    place = torch.arange(length)[None]
    inner = HoliTomInner(HoliTomInnerConfig(layer=layer, ratio=config["inner_ratio_r"]))
    entries = []
    with torch.no_grad():
        for number, block in enumerate(model.layers):
            looks = torch.zeros(1, 1, x.shape[1], x.shape[1])
            if causal or number != layer - 1:
                looks = looks.masked_fill(torch.ones_like(looks, dtype=torch.bool).triu(1), -torch.inf)
            x, attention = run(model, block, x, looks, place)
            entries.append(x.shape[1])
            if number != layer - 1:
                continue
            visual = slice(start, start + size)
            received = attention.mean(1)[:, -1, visual]
            reduction = inner.reduce(x[:, visual], Context(attention=lambda queries, a=received: a))
            assert reduction.mass.sum() == size
            x = between(reduction, start, length - start - size).apply(x)
            place = positions(inner.kept(received), start, size, length)
        x = model.norm(x)
    case.check("last_hidden_state_causal" if causal else "last_hidden_state_official", x)
    case.check("cache_lengths", torch.tensor(entries))


def decoder(case: Case) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    config = case.config
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "rms_norm_eps",
    )
    about = transformers.Qwen2Config(
        **{name: config[name] for name in names},
        vocab_size=len(case.weights["embed_tokens.weight"]) if "embed_tokens.weight" in case.weights else 8,
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        attn_implementation="eager",
    )
    model = transformers.Qwen2Model(about).eval()
    missing = model.load_state_dict(case.weights, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"embed_tokens.weight"}
    return model


def run(model, block, x, looks, place):
    """A decoder layer's result and its attention."""
    kept = []
    hook = block.self_attn.register_forward_hook(lambda module, given, result: kept.append(result[1]))
    x = block(x, attention_mask=looks, position_embeddings=model.rotary_emb(x, place))
    hook.remove()
    return x[0] if isinstance(x, tuple) else x, kept[0]
