"""`taxiway demo`: a model's whole life on real flights."""
