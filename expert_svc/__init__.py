"""One engine behind gRPC: admission, generation, load."""
