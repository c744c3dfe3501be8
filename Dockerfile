# The daemon: `penstock serve`. Nothing of Spark is in here.
#
#   docker build -t penstock .
#   docker run --network host -e PENSTOCK_SUBSCRIPTIONS=projects/P/subscriptions/S penstock
#
# Like everywhere it binds to loopback, which in a container reaches nobody: share a network namespace with Spark (the
# same pod, --network host), or say --insecure-bind with addresses of your choice where the network is to be trusted.

ARG PYTHON_VERSION=3.13

FROM python:${PYTHON_VERSION}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE requirements-dev.lock ./
COPY daemon ./daemon
COPY spark_client ./spark_client
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
# The versions that are tested together; the hashes belong to whole environments, so they stay behind.
RUN sed -e '/--hash=/d' -e 's/ *\\$//' requirements-dev.lock > /wheels/constraints.txt

FROM python:${PYTHON_VERSION}-slim
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-compile --constraint /wheels/constraints.txt \
        "penstock[daemon] @ file://$(echo /wheels/penstock-*.whl)" \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin penstock
USER 10001
ENV PYTHONUNBUFFERED=1 \
    PENSTOCK_LOG__FORMAT=json
# Arrow Flight; /metrics, /healthz and /readyz.
EXPOSE 8815 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/healthz', timeout=4)"]
# The daemon is process 1 and handles SIGTERM itself: it drains for up to drain_timeout_s (20 s), so give `docker stop`
# and Kubernetes 30 s or more.
STOPSIGNAL SIGTERM
ENTRYPOINT ["penstock"]
CMD ["serve"]
