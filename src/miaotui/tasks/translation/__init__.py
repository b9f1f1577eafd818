"""Translations by a chat model: markup kept, glossary followed, loops and echoes caught."""
