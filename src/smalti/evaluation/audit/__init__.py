"""The audit of reducers: what fewer tokens save and what they cost, on one model and the same pictures.

```
model ─────┐
reducers ──┼──► audit ──► Audit ──► tables, audit.json, curves.svg, index.html
pictures ──┘      │
                  ├── cost        arithmetic, time, memory, scoring, break-even
                  ├── fidelity    features, neighbours, classes, score of a task
                  └── selection   where tokens lie, how alike they are, how steady the choice is
```
Beside every reducer stand two controls, random and uniform, that leave as many tokens after every block.
"""

from smalti.evaluation.audit.material import Material, material
from smalti.evaluation.audit.report import Audit, Row
from smalti.evaluation.audit.run import audit

__all__ = ["Audit", "Material", "Row", "audit", "material"]
