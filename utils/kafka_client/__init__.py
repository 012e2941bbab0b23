"""All use of kafka-python: connections, security, clients, topics, transactions, dead letters."""
