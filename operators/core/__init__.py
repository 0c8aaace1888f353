"""Shared by every stage: spec, errors, ledger, storage, HTTP."""
