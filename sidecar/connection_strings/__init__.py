"""Connection strings: what a client is given to reach a server.

`model` says what one holds; `stackexchange`, `uri` and `environment` read and write its forms; `shell` writes command
lines; `server` describes a server of ours; `command` is `valkey-sidecar connection-string`.
"""
