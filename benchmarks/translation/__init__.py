"""Translation and encoder-decoders beside transformers, Marian and CTranslate2."""
