"""Training of masked language models; only here is torch needed (``pip install 'miaotui[optimize]'``)."""
