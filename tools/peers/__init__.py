"""Sections of peers_gpu.py: what PyTorch and Triton need for the engine's operations, on the same machine."""
