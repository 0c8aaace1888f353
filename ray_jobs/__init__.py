"""What runs on the Ray cluster. Nothing here imports airflow."""
