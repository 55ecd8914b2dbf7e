"""Application Insights, beside or instead of OTLP. Imported only when APPLICATIONINSIGHTS_CONNECTION_STRING is set."""
