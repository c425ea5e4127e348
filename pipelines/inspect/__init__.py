"""Questions to what is stored, one room each, answered from the store alone: no model, no GPU."""
