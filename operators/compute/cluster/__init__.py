"""A Ray cluster of a DAG's own."""
