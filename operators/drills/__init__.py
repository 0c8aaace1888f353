"""Drills: a release of a copy of a model is broken on purpose, to see that rollback works, and how long it takes."""
