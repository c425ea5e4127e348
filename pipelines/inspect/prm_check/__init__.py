"""How good a process signal is, before one trains on it."""
