"""What of TokDense needs torchmetrics, in a file of its own because that library is an extra."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from smalti.evaluation.tokdense import Density, token_density


class TokDense(Metric):
    """Accuracy in percent a token, over all questions it has seen."""

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    correct: Tensor
    tokens: Tensor
    questions: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("correct", "tokens", "questions"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, correct: Tensor, tokens: Tensor) -> None:
        """Take answers [b], right or wrong or points in [0, 1], and the tokens [b] each was given."""
        self.correct += correct.double().sum()
        self.tokens += tokens.double().sum()
        self.questions += correct.numel()

    def compute(self) -> Density:
        """Accuracy, average tokens and their ratio so far."""
        accuracy = 100 * (self.correct / self.questions).item()
        tokens = (self.tokens / self.questions).item()
        return Density(accuracy, tokens, token_density(accuracy, tokens))
