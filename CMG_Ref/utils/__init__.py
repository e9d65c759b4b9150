"""The names that training code calls a CMG by. They live in ``cmg_runtime``, which needs torch and numpy only."""
