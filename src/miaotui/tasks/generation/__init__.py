"""Generated, rewritten and continued texts under requirements that can be checked."""
