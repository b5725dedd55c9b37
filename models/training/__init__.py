"""Training of the normal network: data, losses, the loop, export of weights."""
