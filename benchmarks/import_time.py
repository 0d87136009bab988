"""What starting costs: `import smalti` beside `import torch`, and `smalti --help`.

Every start is a fresh process, the kinds in turn. Usage: `python benchmarks/import_time.py`
"""

from __future__ import annotations

import statistics
import sys
import time

import tyro
from common import Target, interleaved, report, run_python, table

AT_HAND = "import torch, smalti; smalti.encode"
STARTS = {
    "python": ("-c", "pass"),
    "import torch": ("-c", "import torch"),
    "import smalti": ("-c", "import smalti"),
    "import torch, smalti": ("-c", "import torch, smalti"),
    AT_HAND: ("-c", AT_HAND),
    "smalti --help": ("-m", "smalti", "--help"),
}


def main(repeats: int = 5) -> int:
    """Measure, show and save.

    Args:
        repeats: that count, after one that does not.
    """
    began = time.monotonic()
    contestants = {name: lambda start=start: run_python(*start) for name, start in STARTS.items()}
    times = interleaved(contestants, repeats)
    median = {name: statistics.median(timing.seconds) for name, timing in times.items()}
    rows = [
        {
            "start": name,
            "median": round(median[name], 3),
            "fastest": round(min(timing.seconds), 3),
            "slowest": round(max(timing.seconds), 3),
            "processor": round(statistics.median(timing.processor), 3),
        }
        for name, timing in times.items()
    ]

    def beyond(first: str, second: str) -> float:
        return median[first] - median[second]

    targets = [
        Target(
            "smalti beyond torch, seconds",
            beyond("import torch, smalti", "import torch"),
            0.3,
            at_least=False,
        ),
        Target("smalti.encode beyond torch, seconds", beyond(AT_HAND, "import torch"), 0.3, at_least=False),
        Target("smalti --help, seconds", median["smalti --help"], 1.0, at_least=False),
    ]
    return report(
        "import_time",
        [table("seconds from start to end of the process", rows)],
        {"repeats": repeats, "seconds": rows},
        targets,
        data={},
        began=began,
    )


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
