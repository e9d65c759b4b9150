"""The reference Conditional Motion Generator: model, data, training and evaluation."""
