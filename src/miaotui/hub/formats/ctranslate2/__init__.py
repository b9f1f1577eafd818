"""CTranslate2's folders: ``model.bin`` and the lists of tokens beside it."""
