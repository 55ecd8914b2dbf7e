"""Connection strings: what a client is given to reach a server.

`model` says what one holds; `stackexchange`, `uri` and `environment` read and write its forms, and `forms` tells the
first two apart; `shell` writes command lines; `server` describes a server of ours; `command` is `valkey-sidecar
connection-string`, and `output` what it prints.
"""
