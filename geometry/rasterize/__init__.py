"""Rasterisers: which face each pixel sees. One interface (``base``), several engines."""
