"""TensorRT plans, of either library."""
