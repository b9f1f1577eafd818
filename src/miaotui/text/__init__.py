"""Text on its way to the model and back: tokenizers, chat templates, streams of text."""
