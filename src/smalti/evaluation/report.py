"""`Report`: the result of an evaluation, as data, JSON, table, plot and page.

```
Report ──► to_json ⇄ from_json       Report ──► print (rich)       Report ──► save ──► report.json
                                                                                       curves.svg
                                                                                       index.html
```
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smalti.errors import FormatError
from smalti.evaluation.examples import Example
from smalti.evaluation.rate_distortion import RatePoint, at_equal_bits
from smalti.evaluation.token_coder import CodebookUsage

SCHEMA = "smalti-evaluation 1"
LEGEND = (
    "Bits per pixel count the bytes of whole files; clips of other codecs are counted as bare streams. "
    "Figures are means over frames, then over pictures or clips. "
    "Perceptual is a distance in VGG16 features and is not LPIPS. "
    "Fréchet is a distance of EfficientNet-Lite0 features and is not FID. "
    "Agreement is the share of frames whose most likely ImageNet class (EfficientNet-Lite0) stays the same. "
    "At equal bits, a codec's figure is interpolated between two measured settings, linearly in the "
    "logarithm of the rate; there is none beyond its range."
)


@dataclass(frozen=True)
class Report:
    """What was measured, and everything needed to measure it again.

    Attributes:
        tokenizer: name, class, fingerprint, parameters, compression, codebook sizes, stages.
        points: means over the data, one a coder and setting; the tokenizer's come first.
        samples: the same for every picture or clip.
        usage: of every codebook, at the highest quality.
        run: command, data with digest, seed, machine, versions, date, commit, seconds.
        notes: what to keep in mind, and which codecs are missing and why.
        examples: pictures for the page; not in the JSON.
    """

    tokenizer: dict[str, Any]
    points: tuple[RatePoint, ...]
    samples: tuple[RatePoint, ...]
    usage: tuple[CodebookUsage, ...]
    run: dict[str, Any]
    notes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()

    @property
    def ours(self) -> list[RatePoint]:
        """The tokenizer's own points."""
        return [point for point in self.points if point.codec == self.tokenizer["name"]]

    def at_equal_bits(self) -> list[dict[str, Any]]:
        """The codecs' figures at the tokenizer's rates. See `rate_distortion.at_equal_bits`."""
        return at_equal_bits(self.points, self.tokenizer["name"])

    def to_json(self) -> str:
        """JSON; numbers that it cannot hold stand as "nan" and "inf", which `float` reads."""
        content = {
            "schema": SCHEMA,
            "tokenizer": self.tokenizer,
            "points": [asdict(point) for point in self.points],
            "at_equal_bits": self.at_equal_bits(),
            "usage": [asdict(usage) for usage in self.usage],
            "notes": list(self.notes),
            "legend": LEGEND,
            "run": self.run,
            "samples": [asdict(point) for point in self.samples],
        }
        return json.dumps(_writable(content), indent=1, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report again, without its example pictures.

        Raises:
            FormatError: not a report, or one of another schema.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise FormatError(f"not an evaluation report: {error}") from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise FormatError(f"an evaluation report has the schema {SCHEMA!r}, this has {schema!r}")
        points, samples = (tuple(map(_point, content[part])) for part in ("points", "samples"))
        usage = tuple(CodebookUsage(**entry) for entry in content["usage"])
        return cls(content["tokenizer"], points, samples, usage, content["run"], tuple(content["notes"]))

    def save(self, folder: Path) -> None:
        """Write `report.json`, `curves.svg` and `index.html`.

        Raises:
            UnsupportedError: matplotlib is not installed.
        """
        from smalti.evaluation.page import page
        from smalti.evaluation.plot import plot

        curves = plot(self)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(self.to_json() + "\n", "utf-8")
        (folder / "curves.svg").write_text(curves, "utf-8")
        (folder / "index.html").write_text(page(self, curves), "utf-8")


def _point(entry: dict[str, Any]) -> RatePoint:
    numbers = {key: float(value) for key, value in entry.items() if key not in ("codec", "setting", "sample")}
    return RatePoint(entry["codec"], entry["setting"], entry["sample"], **numbers)


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _writable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
