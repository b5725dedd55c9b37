"""Synthetic subjects: who they are, how they look, how they are lit, rendered and written as training sets or captures."""
