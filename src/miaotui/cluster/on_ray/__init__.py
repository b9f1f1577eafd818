"""Replicas and ingress as deployments of Ray Serve; Ray is an extra, ``miaotui[cluster]``."""
