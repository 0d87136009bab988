"""What a backbone or an attention costs as tokens grow, beside plain attention: `smalti profile`.

```
name ──► subjects ──► contenders, the plain one first ──► run: FLOPs, memory, races of the clock ──► Profile
                                                          report: growth, crossings, JSON; plot: curves
```
"""
