"""Rows of other people's files, one after the other and in bounded memory, and their fields, checked."""
