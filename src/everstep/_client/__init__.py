"""The client's two ways to an installation: its HTTP API, or Kafka alone."""
