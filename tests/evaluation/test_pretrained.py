import hashlib
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from smalti.errors import ConfigError, IntegrityError, UnsupportedError
from smalti.evaluation.pretrained import (
    PRETRAINED,
    Pretrained,
    PublishedOnnx,
    dinov2_weights,
    load_model,
    pretrained,
)
from smalti.training.corpora.published import wheel
from tests.reducers.hosts.families import build, vit

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}


def tiny():
    return vit(**SIZES, init_values=0.5)


def exported(state):
    """The graph of ONNX that torch writes of a DINOv2: matrices without names, positions folded."""
    from onnx import TensorProto, helper, numpy_helper

    held, nodes = [], []

    def hold(name, value) -> None:
        held.append(numpy_helper.from_array(value.contiguous().numpy(), name))

    def linear(name, weight, bias) -> None:
        place = len(nodes)
        hold(f"onnx::MatMul_{place}", weight.T)
        hold(f"{name}.bias", bias)
        nodes.append(helper.make_node("MatMul", ["x", f"onnx::MatMul_{place}"], [f"product_{place}"]))
        ends = [f"{name}.bias", f"product_{place}"]
        nodes.append(helper.make_node("Add", ends if place % 4 else ends[::-1], [f"sum_{place}"]))

    embeddings = "backbone.embeddings"
    hold(f"{embeddings}.cls_token", state["cls_token"])
    hold("onnx::Concat_1", state["pos_embed"][:, :1])
    hold("onnx::Reshape_2", state["pos_embed"][:, 1:])
    hold("decoder.final.weight", torch.zeros(1))
    for part in ("weight", "bias"):
        hold(f"{embeddings}.patch_embeddings.projection.{part}", state[f"patch_embed.proj.{part}"])
        hold(f"backbone.layernorm.{part}", state[f"norm.{part}"])
    for layer in range(2):
        ours, theirs = f"blocks.{layer}", f"backbone.encoder.layer.{layer}"
        for norm in ("norm1", "norm2"):
            for part in ("weight", "bias"):
                hold(f"{theirs}.{norm}.{part}", state[f"{ours}.{norm}.{part}"])
        for which in ("1", "2"):
            hold(f"{theirs}.layer_scale{which}.lambda1", state[f"{ours}.ls{which}.gamma"])
            linear(
                f"{theirs}.mlp.fc{which}",
                state[f"{ours}.mlp.fc{which}.weight"],
                state[f"{ours}.mlp.fc{which}.bias"],
            )
        linear(
            f"{theirs}.attention.output.dense",
            state[f"{ours}.attn.proj.weight"],
            state[f"{ours}.attn.proj.bias"],
        )
        split = [state[f"{ours}.attn.qkv.{part}"].chunk(3) for part in ("weight", "bias")]
        for name, weight, bias in zip(("query", "key", "value"), *split, strict=True):
            linear(f"{theirs}.attention.attention.{name}", weight, bias)
    end = helper.make_tensor_value_info("sum_0", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "made", [], [end], initializer=held))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A network, its package in the cache, and its card in the catalogue under the name `tiny`."""
    pytest.importorskip("onnx")
    monkeypatch.setenv("SMALTI_CACHE", str(tmp_path))
    network = build(tiny)
    package = tmp_path / "packages" / "tiny-1.0-py3-none-any.whl"
    package.parent.mkdir()
    with zipfile.ZipFile(package, "w") as file:
        file.writestr("tiny/model.onnx", exported(network.state_dict()).SerializeToString())
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    source = wheel("tiny", "1.0", package.name, digest, "MIT")
    card = Pretrained(
        "tiny", "made", 1, PublishedOnnx("tiny", source, "tiny/model.onnx", dinov2_weights), tiny
    )
    monkeypatch.setitem(PRETRAINED, "tiny", card)
    return network, package


def test_an_exported_network_comes_back_with_the_same_weights(published) -> None:
    network, _ = published
    loaded = pretrained("tiny")
    assert not loaded.training
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_what_is_kept_is_not_fetched_again(published) -> None:
    network, package = published
    assert PRETRAINED["tiny"].kept is None
    pretrained("tiny")
    package.unlink()
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(pretrained("tiny")(x), network(x))
    assert PRETRAINED["tiny"].kept.suffix == ".safetensors"


def test_a_changed_package_or_a_foreign_kept_file_is_refused(published) -> None:
    _, package = published
    pretrained("tiny")
    save_file({"x": torch.zeros(1)}, PRETRAINED["tiny"].kept)
    with pytest.raises(IntegrityError, match="does not hold tiny"):
        pretrained("tiny")
    PRETRAINED["tiny"].kept.unlink()
    package.write_bytes(package.read_bytes() + b"!")
    with pytest.raises(IntegrityError, match="SHA-256"):
        pretrained("tiny")


def test_the_catalogue_names_networks_that_can_be_made() -> None:
    assert {"dinov2-small", "efficientnet-lite0"} <= set(PRETRAINED)
    dinov2 = PRETRAINED["dinov2-small"].make()
    assert sum(parameter.numel() for parameter in dinov2.parameters()) == 22_056_192
    assert dinov2.dynamic_img_size
    with pytest.raises(ConfigError, match="'dinov2-small'"):
        pretrained("dinov2-smal")


@pytest.mark.skipif(PRETRAINED["dinov2-small"].kept is None, reason="run `smalti weights dinov2-small` first")
def test_the_real_network_tells_pictures_apart() -> None:
    import numpy as np
    from PIL import Image

    from smalti.evaluation.audit.fidelity import nearest_other
    from smalti.evaluation.audit.material import square
    from smalti.evaluation.audit.subject import Subject
    from tests.conftest import ASSETS

    subject = Subject(load_model("dinov2-small", depth=7), 112)
    with Image.open(ASSETS / "towers.png") as picture:
        towers = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255
    half = min(towers.shape[1:]) // 2
    quarters = [towers[:, :half, :half], towers[:, -half:, -half:]]
    blurred = torch.rand(2, 3, 4, 4).repeat_interleave(28, 2).repeat_interleave(28, 3)
    crops = [square(one, 112).float() / 255 for one in quarters]
    pixels = torch.stack([crops[0], blurred[0], crops[0].flip(-1), blurred[0].flip(-1)])
    assert nearest_other(subject.answer(pixels).pooled).tolist() == [2, 3, 0, 1]


def test_models_are_named_by_library(published, tmp_path) -> None:
    name = "timm:vit_tiny_patch16_224"
    drawn = load_model(name, "random", depth=2)
    assert len(drawn.blocks) == 2
    assert not drawn.training
    x = torch.rand(1, 3, 224, 224)
    torch.testing.assert_close(drawn(x), load_model(name, "random", depth=2)(x))
    save_file(load_model(name, "random").state_dict(), tmp_path / "w.safetensors")
    torch.testing.assert_close(load_model(name, str(tmp_path / "w.safetensors"), depth=2)(x), drawn(x))
    assert len(load_model("tiny", depth=1).blocks) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("tim:vit",), "'timm'"),
        (("timm:vit_tiny_patch16_225", "random"), "vit_tiny_patch16_224"),
        (("timm:vit_tiny_patch16_224", "nowhere.pt"), "neither a file nor"),
        (("timm:vit_tiny_patch16_224", "tiny"), "does not fit"),
        (("tiny", None, 3), "between 1 and the 2"),
        (("transformers:anything", "tiny"), "brings its weights"),
    ],
)
def test_a_wrong_name_is_refused(published, asked, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(*asked)


def test_weights_that_cannot_be_had_are_said_so(monkeypatch) -> None:
    import timm

    def offline(*given, **options):
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UnsupportedError, match="--weights"):
        load_model("timm:vit_tiny_patch16_224")
