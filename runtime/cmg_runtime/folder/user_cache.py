"""Where a user's caches are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional


def user_cache() -> Optional[Path]:
    """``$XDG_CACHE_HOME``, else ``~/.cache``; None for a user without a home folder, as containers have them."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    if chosen:
        return Path(os.path.expanduser(chosen))
    home = os.path.expanduser("~")  # as it is, where it is not known
    return None if home == "~" else Path(home) / ".cache"
