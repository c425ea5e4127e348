"""What every stage shares: a Beam job over part numbers, its loop on one worker, inputs, limits."""
