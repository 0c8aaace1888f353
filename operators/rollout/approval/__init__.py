"""A person decides, with the evidence in the form; the canary is watched meanwhile."""
