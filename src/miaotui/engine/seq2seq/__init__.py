"""Running encoder-decoders: many searches share the passes of one backend."""
