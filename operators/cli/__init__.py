"""The `taxiway` command."""
