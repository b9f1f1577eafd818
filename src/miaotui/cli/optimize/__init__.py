"""Commands that make models smaller, and show what it cost."""
