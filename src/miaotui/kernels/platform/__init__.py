"""The processor and the machine: instruction sets, cores, limits of control groups, measured speeds."""
