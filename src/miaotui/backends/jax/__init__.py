"""The forward program through JAX: one exported artefact for processors, NVIDIA's and AMD's GPUs, and TPUs."""
