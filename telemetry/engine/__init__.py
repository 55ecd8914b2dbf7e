"""The engine's own figures: INFO's text, as the OpenTelemetry Collector and as redis_exporter would show it."""
