"""What the second stage of `mosaic` minimises: the bits of its tokens."""

from __future__ import annotations

from smalti.tokenizers.mosaic import Mosaic
from smalti.training.context import ContextObjective
from smalti.training.objectives.base import objective
from smalti.training.parts import NoOptions


@objective("mosaic-context")
def mosaic_context(tokenizer: Mosaic, _options: NoOptions) -> ContextObjective:
    """The context model of a tokenizer whose own weights stay as they are."""
    return ContextObjective(tokenizer.quantizer, tokenizer.config.context)
