"""What overload leaves of a mesh."""
