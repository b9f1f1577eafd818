"""Quantised files beside llama.cpp's at equal bytes."""
