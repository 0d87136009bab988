"""What the tests of every host share."""

import torch
from torch import nn

from smalti.reducers import Assign, Reducer


class Twins(Reducer):
    """Merges tokens that are equal: what must change nothing."""

    proportional = True
    config = None

    def _reduce(self, tokens, context, count):
        twins = tokens.shape[1] - count
        group = torch.arange(tokens.shape[1])
        first = context.protected
        # tokens first … first + twins are all equal to token `first`
        group[first : first + twins + 1] = first
        group[first + twins + 1 :] -= twins
        return Assign(group.expand(len(tokens), -1), count, context.mass)


def alike(model: nn.Module) -> nn.Module:
    """Make every patch the same token, wherever it lies."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (
                "position" in name
                or ("patch" in name and name.endswith("weight"))
                or name.endswith("conv1.weight")
            ):
                parameter.zero_()
    for module in model.modules():
        table = module.__dict__.get("position_embeddings")
        if isinstance(table, torch.Tensor):
            module.position_embeddings = torch.zeros_like(table)
    return model


class Trace:
    """All that may change about the modules of a model, to be compared later."""

    def __init__(self, model: nn.Module) -> None:
        self.keys = list(model.state_dict())
        self.state = {
            name: (
                type(m),
                set(m.__dict__),
                list(m._forward_hooks.values()),
                list(m._forward_pre_hooks.values()),
            )
            for name, m in model.named_modules()
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and self.keys == other.keys and self.state == other.state

    __hash__ = None
