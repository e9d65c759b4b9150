"""Kernels of the window in CUDA C++, for every CUDA device: what takes many steps a row on the chip."""
