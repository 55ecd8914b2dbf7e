"""Programs that show valkey-sidecar at work. The server never imports them."""
