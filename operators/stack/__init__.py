"""What `taxiway up` runs on one machine."""
