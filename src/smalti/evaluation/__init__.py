"""Measurement: what a tokenizer costs and what it keeps, beside the codecs everybody has.

```
tokenizer ─┐
           ├──► evaluate ──► Report ──► tables, report.json, curves.svg, index.html
data ──────┘       │
                   ├── metrics      PSNR, SSIM, MS-SSIM
                   ├── judges       perceptual distance, features, classes (trained networks)
                   ├── frechet      distance of two sets of features
                   └── codecs       JPEG, WebP, AVIF; x264, x265, SVT-AV1
```
"""

from smalti.evaluation.evaluate import evaluate
from smalti.evaluation.report import Report

__all__ = ["Report", "evaluate"]
