"""The parts of train_demo.py: drawings, scenes, captions, the tokenizer, the model, its training and its measurement."""
