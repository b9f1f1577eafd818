"""From files to passages: reading, repair, duplicates, language."""
