"""Training, evaluation, reports, and what a policy is on disk."""
