"""Where models come from: names, downloads, and readers of the files that hold weights."""
