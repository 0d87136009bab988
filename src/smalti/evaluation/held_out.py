"""Data for an evaluation without any named: what the assembled corpora keep back from training.

```
smalti data photos ──► manifest ──► held-out items, or those of validation where none are held out ──► files
```
"""

from __future__ import annotations

from pathlib import Path

from smalti.errors import ConfigError
from smalti.training.corpora import Corpus
from smalti.training.corpora.fetch import cache_home
from smalti.training.corpora.manifest import Manifest

SPLITS = ("held-out", "val")  # the first that a corpus has


def held_out(name: str) -> list[Path]:
    """Files of a corpus, `photos` or `clips`, that no training reads, not even in part.

    Raises:
        ConfigError: the corpus is not assembled on this machine, or keeps nothing back.
        IntegrityError: its manifest cannot be read.
    """
    root = cache_home() / "data" / name
    manifest = Manifest.read(root)
    if manifest is None:
        raise ConfigError(
            f"no data: name files or folders of pictures, or of clips, or assemble the corpus that is held "
            f"out by default: smalti data {name}"
        )
    corpus = Corpus(root, manifest.items)
    trained = {item.file for item in corpus.split("train")}
    for split in SPLITS:
        files = dict.fromkeys(corpus.path(item) for item in corpus.split(split) if item.file not in trained)
        if files:
            missing = [path for path in files if not path.exists()]
            if missing:
                raise ConfigError(f"{missing[0]} is missing: run smalti data {name} again")
            return list(files)
    raise ConfigError(f"the corpus {name} in {root} keeps nothing back from training: name files or folders")
