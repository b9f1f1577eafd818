"""Commands that run a task over the rows of a file; `row_files` has what they share."""
