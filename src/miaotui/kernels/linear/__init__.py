"""Matrix products with packed weights: formats, tiles, dot products and what follows a product."""
