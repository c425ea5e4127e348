"""`passrl diff`: what sets two runs apart, in options, data and results."""
