"""Training: recipes run one stage after the other, each resumable to the exact step.

```
recipe.yaml ──► train ──► stage: Source ──► Objective ──► Loss ──► fit ──► averaged weights ──► file
                                (by name)    (by name)              └── checkpoint.pt, log.jsonl
```

- `smalti.training.train.train(path, overrides, runs, minutes)` runs a recipe.
- `smalti.training.recipe` reads one.
- `smalti.training.objectives` and `smalti.training.sources` hold what recipes name, one a file.
- `smalti.training.loop.fit` is the loop, for any objective and any batches.
- `smalti.training.corpora` assembles what the crops are cut from.
"""
