#!/bin/bash
# Healthy is who is ready: the server's own /readyz, asked without a program to start but this shell.
#
# The server leaves the address of its HTTP port in its private folder, wherever the port was set. Where it has none
# (the default port was taken), the engine itself is asked.
shopt -s nullglob

for folder in "${TMPDIR:-/tmp}" /tmp /run /dev/shm; do
    for note in "$folder"/valkey-sidecar-*/http; do
        if read -r host port <"$note"; then
            exec 3<>"/dev/tcp/$host/$port" || exit 1
            printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
            IFS=$' \r' read -r _ status _ <&3
            while read -r line && [ "$line" != $'\r' ]; do :; done <&3
            read -r reason <&3
            echo "$reason"
            [ "$status" = 200 ]
        else
            answer=$(valkey-cli -s "${note%http}engine.sock" PING 2>&1)
            echo "$answer"
            [[ $answer == PONG || $answer == NOAUTH* || $answer == NOPERM* ]]
        fi
        exit
    done
done
echo "the server has not started yet"
exit 1
