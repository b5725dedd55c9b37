"""Synthetic subjects: shape, looks, light, pictures with their truth, training sets and the simulated rig's capture."""
