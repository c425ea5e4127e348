"""What would spoil a training, found in what is stored."""
