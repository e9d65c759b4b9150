"""``python -m cmg_gym.time_share`` is a section of the benchmark now; this says so."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    print("cmg_gym.time_share: use python -m cmg_export.bench --sections time-share", file=sys.stderr)
    sys.exit(2)
