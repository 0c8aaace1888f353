"""Training and evaluation on Ray: the contract with training code, rows, checkpoints, signature, provenance."""
