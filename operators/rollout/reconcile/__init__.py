"""Reconcile one model after a crash: what is left to do (policy), and doing it (client)."""
