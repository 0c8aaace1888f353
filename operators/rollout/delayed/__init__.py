"""Evidence that comes after the answer: predictions from the prediction log, labels, and business numbers."""
