"""Parts that fail while requests are under way."""
