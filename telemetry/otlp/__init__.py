"""OTLP: spans, metrics and logs to a collector or a dashboard. Nothing here is imported while no exporter is wanted."""
