"""After a release: verify its record, explain a request, replay its verdicts."""
