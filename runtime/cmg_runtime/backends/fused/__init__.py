"""The network as a few kernels of our own: Triton, and CUDA C++ for Hopper's clusters."""
