"""The contract: generated from the `.proto` files beside the stubs."""
