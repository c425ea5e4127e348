"""One rollout's advantages worked out again, in words and numbers."""
