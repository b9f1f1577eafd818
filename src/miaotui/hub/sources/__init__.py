"""Where files are fetched from: Hugging Face, wheels on package indexes, plain downloads."""
