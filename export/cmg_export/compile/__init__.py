"""One rewritten graph to each artifact: ONNX, TorchScript, TensorRT, the runtime's weights and bank."""
