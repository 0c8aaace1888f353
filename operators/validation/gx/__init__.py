"""Great Expectations as it comes: batches of its data sources, and its checkpoints."""
