"""The report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from html import escape

from smalti.evaluation.examples import Example
from smalti.evaluation.report import LEGEND, Report
from smalti.evaluation.tables import Rows, rows

STYLE = """
:root { color-scheme: light dark; --ink: #22262a; --soft: #6b7280; --line: #d9dde2; --paper: #fbfaf8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e4df; --soft: #9aa1aa; --line: #3a3f45; --paper: #17191b; }
  .curves { background: #fbfaf8; border-radius: .4rem; }
}
body { max-width: 72rem; margin: 3rem auto; padding: 0 1.5rem; background: var(--paper); color: var(--ink);
       font: 16px/1.55 ui-sans-serif, system-ui, sans-serif; }
h1 { font-weight: 600; margin-bottom: .2rem; }
h2 { margin-top: 2.6rem; font-weight: 600; font-size: 1.15rem; }
p { color: var(--soft); max-width: 52rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 500; }
.curves svg { width: 100%; height: auto; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; } figure img { width: 100%; border-radius: .3rem; }
figcaption { font-size: .85rem; color: var(--soft); } figcaption b { color: var(--ink); font-weight: 600; }
pre { font-size: .78rem; color: var(--soft); white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def page(report: Report, curves: str) -> str:
    """HTML with its style, curves and pictures inside.

    Args:
        report: what to show.
        curves: the plot, as SVG.
    """
    tokenizer, data = report.tokenizer, report.run["data"]
    title = f"{tokenizer['name']} on {data['count']} {data['kind']}s"
    patch = "×".join(map(str, tokenizer["compression"]))
    summary = (
        f"{tokenizer['parameters']:,} parameters · {patch} pixels a token · "
        f"weights {tokenizer['fingerprint']} · {report.run['date'][:10]}"
    )
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(summary)}</p>",
        _examples(report),
        f'<h2>Rate and distortion</h2><div class="curves">{curves[curves.index("<svg") :]}</div>',
        *map(table, rows(report)),
        "<h2>How to read this</h2>",
        *(f"<p>{escape(note)}</p>" for note in (LEGEND, *report.notes)),
        f"<h2>Run</h2><pre>{escape(json.dumps(report.run, indent=1, ensure_ascii=False))}</pre>",
    ]
    return document(title, parts)


def _examples(report: Report) -> str:
    return gallery("At equal bytes", report.examples) if report.examples else ""


def table(content: Rows) -> str:
    """A table with its heading."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in content.head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in content.body
    )
    return (
        f'<h2>{escape(content.title)}</h2><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def gallery(title: str, shown: Iterable[Example]) -> str:
    """Pictures with their captions under one heading; the page holds them itself."""
    figures = (
        f'<figure><img alt="{escape(each.title)}" '
        f'src="data:image/png;base64,{base64.b64encode(each.png).decode()}">'
        f"<figcaption><b>{escape(each.title)}</b><br>{escape(each.caption)}</figcaption></figure>"
        for each in shown
    )
    return f'<h2>{escape(title)}</h2><div class="examples">{"".join(figures)}</div>'


def document(title: str, parts: Iterable[str], style: str = STYLE) -> str:
    """A whole page of these parts."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
