"""Speed and accuracy, measured and printed: ``python -m benchmarks`` lists what there is."""
