"""Indexes of documents in a cluster: the ingress writes them, replicas hold snapshots and search."""
