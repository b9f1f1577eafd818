"""The cache of answers already given: exact and near matches."""
