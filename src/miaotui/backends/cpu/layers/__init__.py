"""Parts of a pass that differ between models: attention, latent attention, mixtures of experts."""
