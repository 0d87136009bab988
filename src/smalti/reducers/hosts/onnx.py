"""ONNX files of reduced models, kept only if ONNX Runtime computes the same with them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from smalti.errors import UnsupportedError, missing_extra

TOLERANCE = 1e-4


def export_onnx(
    model: nn.Module, path: str | os.PathLike[str], example: Tensor, *, tolerance: float = TOLERANCE
) -> Path:
    """Write an ONNX file of a model, reduced or not, after ONNX Runtime gave the same on random input.

    Some exporters write scatters that compute something else without a word, so nothing is kept unseen.

    Args:
        model: gives one tensor of one tensor.
        path: where to; it appears whole or not at all.
        example: an input [b 3 h w]; the batch stays free.
        tolerance: largest difference, relative to the largest output.

    Raises:
        UnsupportedError: onnx, onnxscript or onnxruntime is missing, or the file computes something else.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "onnxruntime", "hosts") from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = torch.export.Dim("batch", min=1, max=1024)
    if len(example) < 2:
        example = torch.cat([example, example.flip(-1)])  # a batch of one would be taken for a constant
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, torch.no_grad():
        part = Path(folder) / path.name
        torch.onnx.export(
            model.eval(),
            (example,),
            part,
            dynamo=True,
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        for count in (2, 5):
            probe = torch.randn(count, *example.shape[1:], generator=torch.Generator().manual_seed(count))
            expected = model(probe)
            found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: probe.numpy()})[0])
            worst = (found - expected).abs().max() / expected.abs().max()
            if not worst <= tolerance:
                raise UnsupportedError(
                    f"the ONNX file differs from the model by {worst:.2e} of its largest output "
                    f"(allowed {tolerance:.0e}): it was not kept"
                )
        part.replace(path)
    return path
