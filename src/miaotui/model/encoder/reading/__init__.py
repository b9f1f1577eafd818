"""From an encoder's files to one configuration, one set of canonical names, a head and a pooling."""
