"""Other engines with our weights, each in a process of its own: what the benchmarks compare Malgil with."""
