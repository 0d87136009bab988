"""`python -m smalti` is the `smalti` command."""

import sys

from smalti.cli import main

sys.exit(main())
