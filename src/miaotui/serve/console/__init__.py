"""The page at ``/``, as it was built from the sources in ``console/``."""
