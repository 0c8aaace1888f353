"""The validation of a model's training data: freeze raw tables, check them, build the dataset, check that."""
