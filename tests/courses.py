"""Methods as the contract and the tests on a GPU train them."""

from __future__ import annotations

from typing import Any

from adderkit.distill import method_names

# Every method as it comes, and in its other courses: what is said, and epochs so that each phase has two. Where a
# teacher begins with its student, whose targets then move, the weights are small enough for a loss that falls.
COURSES: dict[str, tuple[str, dict[str, Any], int]] = {
    name: (name, {}, {"snapshot": 8, "pkkd": 7}.get(name, 3)) for name in method_names()
} | {
    "pkkd, progressive": ("pkkd", {"progressive": True, "head_start": 0.5}, 8),
    "pkkd, no kernel, both from the start": (
        "pkkd",
        {"kernel": False, "progressive": True, "head_start": 0, "mid_share": 1, "beta": 0.1},
        3,
    ),
    "pkkd, all that can be learned": (
        "pkkd",
        {"sigma": "learned", "rho": "both", "scale": "layer", "taps": "operators", "alpha": 1, "mid_share": 1},
        3,
    ),
    "kd, first half": ("kd", {"share": 0.5}, 4),
    "sp, progressive": ("sp", {"progressive": True}, 3),
    "fsp, progressive": ("fsp", {"progressive": True, "weight": 1.0}, 3),
    "fsp, one after the other": ("fsp", {"first_phase": 0.5}, 4),
}
