"""The trainer's store of observations: offsets, requests and outcomes in one database."""
