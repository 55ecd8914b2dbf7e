"""The control plane: what people and schedulers ask the supervisor over HTTP. Never touches a client's session."""
