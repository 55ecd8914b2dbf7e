#!/bin/sh
# The image's entry point; what it does is what the official Valkey image's does.
set -e

# Arguments that begin with an option or a conf file are the server's.
if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then
    set -- valkey-server "$@"
fi

case "$1" in
valkey-server | redis-server | valkey-sidecar)
    if [ "$(id -u)" = 0 ]; then
        # Root gives the volume and itself to the user valkey. Only what is not valkey's yet: a big volume costs nothing.
        find . \! -user valkey -exec chown valkey '{}' +
        exec setpriv --reuid=valkey --regid=valkey --clear-groups -- "$0" "$@"
    fi
    if [ ! -w . ]; then
        echo >&2 "warning: directory '$(pwd)' is not writable by current user ($(id -u))"
        echo >&2 "  If persistence is enabled, this will cause errors. Check mount permissions or run as root to allow chown"
    fi
    ;;
esac

# Data files are for their owner only, unless whoever starts us has chosen an umask.
if [ "$(umask)" = 0022 ]; then
    umask 0077
fi

# Unquoted: it holds several words.
exec "$@" $VALKEY_EXTRA_FLAGS
