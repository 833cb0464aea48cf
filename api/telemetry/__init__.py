"""What is measured and told of requests: statistics, metrics, traces, logs."""
