"""HTTP: pages, metrics, health."""
