"""The audit as one HTML page that needs no other file."""

from __future__ import annotations

import json
from html import escape

from smalti.evaluation.audit.report import FULL, LEGEND, Audit, Row
from smalti.evaluation.page import STYLE, document, gallery, table

BARS = """
.bars { display: flex; align-items: flex-end; gap: 1px; height: 3rem; }
.bars i { flex: 1; background: #0b6e99; }
"""


def page(audit: Audit, curves: str) -> str:
    """HTML with its style, curves and pictures inside.

    Args:
        audit: what to show.
        curves: the plot, as SVG.
    """
    model, data = audit.model, audit.run["data"]
    title = f"{model['name']} on fewer tokens: {data['count']} pictures of {data['name']}"
    summary = (
        f"{model['parameters']:,} parameters · {model['blocks']} blocks · {model['tokens']:,} tokens of "
        f"{model['size']} × {model['size']} pixels · {audit.run['machine']['threads']} threads · "
        f"{audit.run['date'][:10]}"
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(summary)}</p>",
        f'<h2>Curves</h2><div class="curves">{curves[curves.index("<svg") :]}</div>',
        *map(table, audit.tables()),
        gallery("Which patches became one token", audit.pictures),
        _histograms(audit),
        "<h2>How to read this</h2>",
        *(f"<p>{escape(note)}</p>" for note in (LEGEND, *audit.notes)),
        f"<h2>Run</h2><pre>{escape(json.dumps(audit.run, indent=1, ensure_ascii=False))}</pre>",
    ]
    return document(title, parts, STYLE + BARS)


def _histograms(audit: Audit) -> str:
    """Share of the tokens in every row and column, at the smallest budget."""
    least = min(row.keep for row in audit.rows)
    shown = [row for row in audit.rows if row.keep == least and row.reducer != FULL]
    figures = "".join(_bars(row, axis) for row in shown for axis in ("rows", "columns"))
    return f'<h2>Where tokens lie, at keep {least:g}</h2><div class="examples">{figures}</div>'


def _bars(row: Row, axis: str) -> str:
    shares = getattr(row, axis)
    largest = max(shares, default=0) or 1
    bars = "".join(
        f'<i style="height:{100 * share / largest:.0f}%" title="{share:.1%}"></i>' for share in shares
    )
    caption = f"<figcaption><b>{escape(row.title)}</b> {axis}</figcaption>"
    return f'<figure><div class="bars">{bars}</div>{caption}</figure>'
