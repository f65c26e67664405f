"""The repository around the tests: there in a clone, and not beside an installed package."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def file(path: str) -> Path:
    """A file or folder of the repository; a test that asks for it outside of one is skipped.

    Inside of one it is not asked whether the file is there: a test shall fail where it is missing.
    """
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip(f"{path}: the tests are apart from the repository", allow_module_level=True)
    return ROOT / path
