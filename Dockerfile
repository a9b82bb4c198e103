# The image of workers, beat and Flower (docker-compose.yml), and with --target test the one that `make test` falls back to.

FROM python:3.11-slim-bookworm AS pushq
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY pyproject.toml constraints.txt celeryconfig.py ./
COPY pushq ./pushq
RUN pip install --no-cache-dir --constraint constraints.txt . flower \
    && useradd --system --uid 10001 --home-dir /app pushq
USER pushq
# Warm shutdown: running batches finish. Never SIGQUIT, which loses tasks under gevent.
STOPSIGNAL SIGTERM
ENTRYPOINT ["pushq"]

FROM python:3.11-bookworm AS test
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
       make rabbitmq-server redis-server postgresql nginx nghttp2-server \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 pushq
WORKDIR /home/pushq/project
RUN chown pushq /home/pushq/project
USER pushq
COPY --chown=pushq . .
RUN make venv
CMD ["make", "test"]
