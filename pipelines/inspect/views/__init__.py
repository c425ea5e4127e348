"""Tables and pictures of what is stored: groups, the state of a run, its trainings."""
