"""/metrics, /healthz and /readyz of each script, for Prometheus."""
