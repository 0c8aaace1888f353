"""Is the canary good, bad, or not known yet? Pure: evidence in, a verdict out."""
