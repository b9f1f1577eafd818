"""The decoder's passes: block types, experts, adapters, grammars, inner loops."""
