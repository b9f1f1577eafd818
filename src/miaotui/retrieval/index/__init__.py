"""The document index: partitions on disk, statistics, search over all of them."""
