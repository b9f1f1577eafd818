"""The form of Hugging Face's Text Embeddings Inference, which its clients speak."""
