"""The window's writes as Triton kernels. Each file's twin in torch is the one of its name in ``plain``."""
