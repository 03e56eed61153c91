"""The messages of our gRPC interface, generated: `make proto`."""
