"""What prepares Kafka and PostgreSQL for Everstep."""
