# The image: our server under Valkey's names, with the engine and the tools of the official Valkey image.
#
#   docker build -t valkey-sidecar .
#
# It needs no BuildKit. The base images are build arguments; build and final image must have the same Python, and the
# engine's Debian release must not be newer than the final image's. PIP_* arguments reach the build stages only.
ARG VALKEY_IMAGE=valkey/valkey:9.1-trixie
ARG BUILD_IMAGE=python:3.13-trixie
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${VALKEY_IMAGE} AS valkey

FROM ${BUILD_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_CERT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# What the server imports, in a virtual environment at the place where it will run; then the compiler's own needs.
COPY pyproject.toml requirements.lock ./
COPY image/requirements.py image/
RUN set -eu; \
    python3 image/requirements.py runtime >runtime.txt; \
    python3 -m venv --without-pip /opt/valkey-sidecar; \
    python3 -m pip --python /opt/valkey-sidecar/bin/python3 install -q --no-deps --no-compile --only-binary :all: \
        --require-hashes -r runtime.txt; \
    python3 image/requirements.py build >build.txt; \
    python3 -m venv --without-pip compiler; \
    python3 -m pip --python compiler/bin/python3 install -q --no-deps --require-hashes -r build.txt
# Bytecode that is never checked against its source: no start compiles anything, whatever a registry does to file times.
RUN find /opt/valkey-sidecar -depth -type d \( -name tests -o -name testdata \) -exec rm -r '{}' + ; \
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/valkey-sidecar/lib
COPY setup.py MANIFEST.in README.md LICENSE ./
COPY telemetry telemetry
COPY sidecar sidecar
# Our own wheel goes into a tree of its own: it is the last layer.
RUN set -eu; \
    CFLAGS="-g0" python3 -m pip --python compiler/bin/python3 wheel -q --no-deps --no-index --no-build-isolation \
        --wheel-dir dist .; \
    python3 -m pip --python /opt/valkey-sidecar/bin/python3 install -q --no-deps --no-index --no-compile \
        --root /ours dist/*.whl; \
    find /ours -name '*.so' -exec strip --strip-unneeded '{}' +; \
    python3 -m compileall -q --invalidation-mode unchecked-hash -s /ours /ours/opt/valkey-sidecar/lib

FROM ${PYTHON_IMAGE}
ENV SIDECAR_ENGINE_BINARY=/opt/valkey/bin/valkey-server \
    SIDECAR_HTTP_BIND="* -::*" \
    SIDECAR_PROTECTED_MODE=no
# The names that are links: the server's are us, all others the real programs. The engine goes by argv[0].
# dash, as PID 1 with -c, passes no signal on; bash becomes the command, so it is what /bin/sh is here.
RUN set -eu; \
    groupadd -r -g 999 valkey; \
    useradd -r -g valkey -u 999 valkey; \
    mkdir -p /opt/valkey/bin /data /run/valkey; \
    chown valkey:valkey /data /run/valkey; \
    chmod 1777 /data /run/valkey; \
    for name in valkey-server redis-server valkey-sidecar; do \
        ln -s /opt/valkey-sidecar/bin/valkey-sidecar "/usr/local/bin/$name"; \
    done; \
    for name in check-rdb check-aof sentinel; do \
        ln -s /opt/valkey/bin/valkey-server "/usr/local/bin/valkey-$name"; \
        ln -s /opt/valkey/bin/valkey-server "/usr/local/bin/redis-$name"; \
    done; \
    for name in cli benchmark; do \
        ln -s "/opt/valkey/bin/valkey-$name" "/usr/local/bin/valkey-$name"; \
        ln -s "/opt/valkey/bin/valkey-$name" "/usr/local/bin/redis-$name"; \
    done; \
    dpkg-divert --local --no-rename --divert /usr/bin/sh.dash --add /usr/bin/sh; \
    ln -sf bash /usr/bin/sh; \
    stdlib="$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"; \
    python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|pydoc_data|site-packages|dist-packages)/' "$stdlib"
COPY --from=valkey /usr/local/bin/valkey-server /usr/local/bin/valkey-cli /usr/local/bin/valkey-benchmark \
    /opt/valkey/bin/
RUN set -eu; \
    for program in /opt/valkey/bin/*; do \
        if ldd "$program" | grep 'not found'; then echo "$program: PYTHON_IMAGE lacks a library" >&2; exit 1; fi; \
        "$program" --version; \
    done
COPY image/docker-entrypoint.sh image/healthcheck.sh /usr/local/bin/
COPY --from=build /opt/valkey-sidecar /opt/valkey-sidecar
COPY --from=build /ours/opt/valkey-sidecar /opt/valkey-sidecar
COPY image/sbom.py /tmp/
RUN set -eu; \
    /opt/valkey-sidecar/bin/python3 /tmp/sbom.py /usr/share/doc/valkey-sidecar; \
    rm /tmp/sbom.py; \
    valkey-server --version

ARG REVISION
LABEL org.opencontainers.image.title="valkey-sidecar" \
    org.opencontainers.image.description="A Valkey server with observability built in" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="BSD-3-Clause" \
    org.opencontainers.image.vendor="valkey-sidecar contributors" \
    valkey-sidecar.sbom="/usr/share/doc/valkey-sidecar/sbom.cdx.json"
WORKDIR /data
VOLUME /data
EXPOSE 6379 9121
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["healthcheck.sh"]
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["valkey-server"]
