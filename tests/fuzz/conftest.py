"""The fuzzer spoils the good files that the tests of bad input have."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "bad_input"))
