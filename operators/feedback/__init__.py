"""Predictions and what became known of them later: the one reader of the prediction log, and label sources."""
