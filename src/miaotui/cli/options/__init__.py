"""The grammar of the command line: commands, their options and defaults."""
