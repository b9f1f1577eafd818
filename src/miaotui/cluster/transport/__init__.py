"""Ways from a pool to its replicas: lines of JSON over the pipes of a child process, or over a connection."""
