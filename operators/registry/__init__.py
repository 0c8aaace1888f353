"""MLflow: versions and aliases."""
