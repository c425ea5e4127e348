"""One file a stage: its options, the pure function on one part, the thin driver around it."""
