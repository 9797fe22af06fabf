"""The orchestrator's ends of Kafka: reading its shards' partitions and publishing what commits caused."""
