"""One model version on Ray Serve: the protocol, the fast path to the model, the prediction log."""
