"""Sources of models: names, downloads, and readers of the files that hold weights."""
