"""The stage `shaped`: rollouts and their signals become advantages for each chunk."""
