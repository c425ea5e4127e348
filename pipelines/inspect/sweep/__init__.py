"""What other shaping options would make of the stored rollouts and signals."""
