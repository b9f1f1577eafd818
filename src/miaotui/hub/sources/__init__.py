"""Sources of files: Hugging Face, wheels on package indexes, plain downloads."""
