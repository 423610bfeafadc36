"""Where third-party data lies: BALLAST_TEST_DATA, or ../shared/data beside the project."""
import os
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent


def test_data():
    return Path(os.environ.get("BALLAST_TEST_DATA", DEMO.parent.parent / "shared/data"))
