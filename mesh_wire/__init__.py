"""What the services and the client share beyond messages: errors, sessions, a server's life, telemetry, settings."""
