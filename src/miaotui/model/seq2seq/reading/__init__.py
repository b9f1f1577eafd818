"""From files of encoder-decoders to one configuration and one set of names."""
