"""llama.cpp's own routes, for editors that speak to its server."""
