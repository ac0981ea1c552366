"""The PyTorch side: an independent oracle for vitscope, built on transformers' CLIPModel and autograd."""
