"""Reduced models compiled, exported, and run by ONNX Runtime; exits with an error where numbers differ.

`traced.py WAY [TIMM | TRANSFORMERS | OPEN_CLIP] [FAMILY]`
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[3]))

import smalti
from tests.reducers.hosts import families


class Answer(nn.Module):
    """The one tensor that a model answers with."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = self.model(x)
        return output if isinstance(output, torch.Tensor) else output.logits


def check(way: str, reducer: str, library: str, family: str) -> None:
    model = families.build(getattr(families, library)[family])
    whole_model = Answer(model).eval()
    x = torch.randn(2, 4, 3, 32, 32) if family == "videomae" else torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole = whole_model(x)
        if way == "compiled-before":
            model.compile(backend="eager")
            whole_model(x)
        with smalti.reduce(model, reducer, r=3):
            if way == "compiled-before":
                assert not torch.allclose(whole_model(x), whole), "the compiled model did not see the reducer"
            elif way == "onnx":
                onnx(whole_model, x)
            else:
                expected = whole_model(x)
                assert not torch.allclose(expected, whole)
                if way == "compiled":
                    run = torch.compile(whole_model, backend="eager", fullgraph=True)
                else:
                    run = torch.export.export(whole_model, (x,), strict=False).module()
                torch.testing.assert_close(run(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(whole_model(x), whole)


def onnx(model: torch.nn.Module, x: torch.Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        smalti.export_onnx(model, Path(folder) / "model.onnx", x)


way, library, family = (*sys.argv[1:], "TIMM", "vit")[:3] if len(sys.argv) == 2 else sys.argv[1:]
for name in ("tome", "uniform", "pool"):
    check(way, name, library, family)
