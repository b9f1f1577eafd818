"""Measurements that `miaotui bench` does not make: other engines on the same files, and parts of this package."""
