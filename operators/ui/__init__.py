"""The console in Airflow's UI: what is released now, and a rollback."""
