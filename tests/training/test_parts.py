from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import nn

from smalti.errors import ConfigError
from smalti.training.objectives import MosaicObjective, MosaicOptions, objective
from smalti.training.parts import Choice, Parts
from smalti.training.sources import source
from tests.tokenizers.tiny import tiny_mosaic


@dataclass(frozen=True)
class Size:
    width: int = 3
    weights: tuple[float, ...] = ()


def parts() -> Parts:
    made = Parts("objective", "smalti.training.objectives")

    @made("line", Size)
    def line(system: nn.Module, options: Size) -> tuple[nn.Module, Size]:
        return system, options

    @made("plain")
    def plain(system: nn.Module, _options: object) -> str:
        return "plain"

    return made


def test_a_part_is_made_for_a_system_with_its_options() -> None:
    system = nn.Identity()
    made = parts().make(Choice("line", {"width": 5, "weights": [1.0, 2.0]}), system)
    assert made == (system, Size(5, (1.0, 2.0)))
    assert parts().make(Choice("plain"), system) == "plain"


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice("lime"), "no objective 'lime': did you mean 'line'"),
        (Choice("line", {"widht": 3}), "Size has no field 'widht': did you mean 'width'"),
        (Choice("line", {"width": "wide"}), "Size.width must be int, not 'wide'"),
        (Choice("plain", {"width": 3}), "NoOptions has no field 'width'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(choice, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parts().options(choice)


def test_a_name_belongs_to_one_part() -> None:
    made = parts()
    with pytest.raises(ConfigError, match="'line' is registered twice"):
        made("line")(lambda system, options: None)


def test_every_module_of_a_package_registers_its_parts() -> None:
    assert {"mosaic", "mosaic-context"} <= set(objective.names())
    assert {"crops", "mosaic-latents"} <= set(source.names())
    made = objective.make(Choice("mosaic", {"stage_weights": [3.0, 2.0, 1.0]}), tiny_mosaic())
    assert isinstance(made, MosaicObjective)
    assert made.options == MosaicOptions(stage_weights=(3.0, 2.0, 1.0))
