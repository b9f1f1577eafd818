"""``miaotui bench``: speeds with their quality, of a model here or of a server."""
