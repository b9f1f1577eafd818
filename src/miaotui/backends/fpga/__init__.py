"""One feed-forward block as a circuit, by hls4ml: simulated in C++ here, never run on a device."""
