"""Before a release: what it will take and detect."""
