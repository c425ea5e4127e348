"""Stored datasets as what other programs read: one file a format, `write.py` lists and writes them."""
