"""Speech behind the server: models served by name, recordings and live sound on their way through them."""
