"""Tables: each module is one command, `python -m benchmarks.<name>`."""
