"""What the proofs with faults share: models that misbehave, callers that count, a stack of its own."""
