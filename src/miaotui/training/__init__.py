"""Training of decoders in torch: the network, the loop, checkpoints, data. Needs ``miaotui[optimize]``."""
