"""Training a draft head. Needs torch (``pip install 'miaotui[optimize]'``)."""
