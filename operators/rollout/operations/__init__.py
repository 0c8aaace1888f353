"""What people do to running models, and what releases leave to be done later."""
