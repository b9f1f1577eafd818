"""The query language: parsing, text analysis, compiling, snippets."""
