"""Looking at the credit of stored rollouts: one HTML file that needs no server, or one group in a notebook."""
