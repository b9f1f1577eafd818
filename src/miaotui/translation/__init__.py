"""Translation of texts, whatever model writes it: pieces, checks, attempts."""
