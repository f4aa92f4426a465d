"""Episodes: from stamped messages to observation ticks to training arrays."""
