"""SAE training in plain PyTorch, and what its comparisons share."""
