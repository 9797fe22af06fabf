"""What Everstep stores and sends: events, messages, names and SQL. Structs only grow, new fields have defaults."""
