"""The window's writes in torch: on a CPU, and the truth of their twins in ``triton``."""
