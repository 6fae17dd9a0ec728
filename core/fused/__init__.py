"""The fused training pass: one packed batch forward and backward, written by hand over the resident model's own tensors."""
