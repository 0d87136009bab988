"""`smalti demo`: a clip and a photograph become tokens and come back; a page with the numbers.

```
assets/towers.png ─┬─► towers.smt ──► towers-back.png ─┬─► figures beside the classical codecs ──► index.html
assets/city.mp4   ─┘   city.smt   ──► city-back.mp4   ─┘
```
"""

from __future__ import annotations

import time
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from smalti.cli import options, screen

ITEMS = {"towers.png": "A photograph", "city.mp4": "A clip"}
INTRODUCTION = """\
Each went through the tokenizer into a token file and back. The classical codecs beside it may use as many
bytes as that file, no more; a codec that cannot go so low shows its smallest. The tokenizer was trained on
other pictures and on clips among which this one was: smalti evaluate measures it on what it never saw."""
COMMANDS = """\
smalti encode PICTURE-OR-CLIP -o tokens.smt
smalti decode tokens.smt -o back.png
smalti compare PICTURE
smalti info {folder}/city.smt
smalti trim {folder}/city.smt --quality 2 -o small.smt
smalti systems"""


def command(
    output: options.Output = None,
    tokenizer: options.Tokenizer = "mosaic",
    quality: options.Quality = None,
) -> None:
    """A clip and a photograph become small token files and come back, beside the classical codecs.

    Args:
        output: folder for the page and its files; `demo` when not given.
        tokenizer: a name, a file or folder of weights, or a hub id.
        quality: 1 is the smallest file; the middle one when not given.
    """
    import smalti
    from smalti.api import load, stamp

    folder = output or Path("demo")
    folder.mkdir(parents=True, exist_ok=True)
    model = load(tokenizer)
    quality = quality or (len(model.stages) + 1) // 2
    began = time.monotonic()
    sections = [_show(name, title, folder, model, quality) for name, title in ITEMS.items()]
    page = Template((files(smalti) / "assets" / "demo.html").read_text()).substitute(
        introduction=INTRODUCTION,
        sections="\n".join(sections),
        commands=escape(COMMANDS.format(folder=folder)),
        version=smalti.__version__,
        tokenizer=escape(str(stamp(model))),
    )
    (folder / "index.html").write_text(page)
    out = screen.console()
    out.print(f"\n{folder / 'index.html'}: the page, after {time.monotonic() - began:.0f} s. Go on with:")
    out.print("".join(f"\n  {line}" for line in COMMANDS.format(folder=folder).splitlines()))


def _show(name: str, title: str, folder: Path, model, quality: int | None) -> str:
    """Do the main job on one asset; its part of the page."""
    import smalti
    from smalti.cli import comparison
    from smalti.files import decode_file, encode_file

    out = screen.console()
    asset, stem = Path(str(files(smalti) / "assets" / name)), Path(name).stem
    tokens, back = folder / f"{stem}.smt", folder / f"{stem}-back{Path(name).suffix}"
    started = time.monotonic()
    encoded = encode_file(asset, tokens, model, quality)
    middle = time.monotonic()
    decode_file(tokens, back, model)
    ended = time.monotonic()
    summary = f"{encoded} in {middle - started:.1f} s, decoded in {ended - middle:.1f} s"
    out.print(f"\n[bold]{title}[/] {name} → {tokens} → {back}\n{summary}")
    original, entries = comparison.of_file(asset, model, quality)
    comparison.picture(original, entries).save(folder / f"{stem}.png")
    table = comparison.table(entries, "")
    out.print(table)
    video = ""
    if original.shape[2] > 1:
        video = f'<video src="{back.name}" controls loop muted></video><p>decoded from {tokens.name}</p>'
    picture = f'<img src="{stem}.png" alt="the original, Smalti and the classical codecs">'
    heading = f"<h2>{escape(title)}</h2><p>{escape(summary)}</p>"
    return "\n".join([heading, picture, comparison.html(entries), video])
