# The online service and `funnelrank score`: no torch, no training code, no Redis. Bundles come from a volume at /registry, features from FUNNELRANK_REDIS_URL.
FROM python:3.11-slim AS build
RUN python -m venv /opt/funnelrank
COPY requirements/serve.txt requirements/serve.txt
RUN /opt/funnelrank/bin/python -m pip install --no-cache-dir --disable-pip-version-check -r requirements/serve.txt

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin funnelrank \
    && install -d -o 10001 -g 10001 /registry
COPY --from=build /opt/funnelrank /opt/funnelrank
WORKDIR /app
COPY LICENSE NOTICE ./
COPY funnelrank ./funnelrank
COPY features ./features
COPY batch ./batch
COPY tables ./tables
COPY service ./service
ENV PATH=/opt/funnelrank/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FUNNELRANK_HOST=0.0.0.0 \
    FUNNELRANK_PORT=8000 \
    FUNNELRANK_REGISTRY=/registry
USER 10001
VOLUME /registry
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: a container whose Redis is away must leave the balancer's list (/readyz), not be restarted.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"FUNNELRANK_PORT\"]}/livez', timeout=2)"]
# The command `funnelrank`; without arguments it serves.
ENTRYPOINT ["python", "-m", "funnelrank"]
CMD ["serve"]
