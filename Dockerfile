# The daemon and nothing else: the wheel is built in one stage and installed in the next, without compilers or sources.
#
#   docker build -t penstock .
#   docker run -p 8815:8815 -p 9464:9464 -v ~/key.json:/key.json:ro -e GOOGLE_APPLICATION_CREDENTIALS=/key.json \
#       penstock serve --subscription projects/P/subscriptions/S --insecure-bind --listen grpc://0.0.0.0:8815 --http 0.0.0.0:9464
#
# In a container of its own the daemon is reachable only when it binds beyond loopback, which has to be said in so many
# words. In a pod beside Spark (one network namespace) leave the last three flags away.

ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY requirements-dev.lock pyproject.toml README.md LICENSE ./
COPY daemon daemon
COPY spark_client spark_client
# Versions as tested, without the hashes: pip allows them only when every package has one, and our own wheel has none.
RUN sed -n 's/^\([A-Za-z0-9][^\\]*\).*/\1/p' requirements-dev.lock > /constraints.txt \
    && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && pip wheel --no-cache-dir --constraint /constraints.txt --wheel-dir /wheels "$(echo /wheels/penstock-*.whl)[daemon]"

FROM python:${PYTHON}-slim
RUN useradd --system --uid 10001 --no-create-home penstock
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels "penstock[daemon]"
USER 10001
ENV PYTHONUNBUFFERED=1 PENSTOCK_LOG__FORMAT=json
# Arrow Flight; metrics and health.
EXPOSE 8815 9464
# The exec form: SIGTERM reaches the daemon, which drains for up to drain_timeout_s (20 s); give `docker stop` more time.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/healthz', timeout=2)"]
ENTRYPOINT ["penstock"]
CMD ["serve"]
