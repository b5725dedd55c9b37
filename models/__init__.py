"""The multi-view normal model: network, synthetic subjects, training, evaluation, engines and shipped weights."""
