import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def evaluation_pictures() -> Path:
    folder = Path(os.environ.get("SMALTI_EVAL", "../shared/eval"))
    if not folder.is_dir():
        pytest.skip(f"no evaluation pictures in {folder}: set SMALTI_EVAL to their folder")
    return folder
