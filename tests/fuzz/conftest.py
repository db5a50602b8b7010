"""The fuzzer spoils the good files that the tests of bad input and of the runtime have."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("bad_input", "runtime")]
