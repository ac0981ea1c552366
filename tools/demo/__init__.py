"""The parts of train_demo.py: drawings, scenes, captions, tokenizer, model, training and measurement."""
