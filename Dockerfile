# One image for all roles: what follows its name on the command line is what `pushq` gets (worker apns, beat, exporter ...).
#   docker build --tag pushq .
# With --target test it is the machine that `make test` falls back to.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY pushq ./pushq
# The environment is made without pip: nothing that installs packages is in the image.
RUN python -m venv --without-pip /opt/pushq \
    && python -m pip --python /opt/pushq/bin/python install --constraint constraints.txt '.[flower,otel,web]'

FROM python:3.11-bookworm AS test
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends make sudo \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 pushq \
    && echo 'pushq ALL=(root) NOPASSWD: ALL' >/etc/sudoers.d/pushq
WORKDIR /home/pushq/project
RUN chown pushq /home/pushq/project
USER pushq
COPY --chown=pushq . .
# `make services` asks the tests which servers they need: no second list of them here.
RUN make services
CMD ["make", "test"]

FROM python:3.11-slim-bookworm AS pushq
# tini is the first process: the kernel ignores signals for which that one has no handler, and SIGALRM ends a worker that hangs.
RUN apt-get update \
    && apt-get install -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 pushq \
    && useradd --uid 10001 --gid pushq --no-create-home --home-dir /var/lib/pushq --shell /usr/sbin/nologin pushq \
    && install --directory --owner pushq --group pushq /var/lib/pushq /var/lib/pushq/mock
COPY --from=build /opt/pushq /opt/pushq
ENV PATH=/opt/pushq/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /var/lib/pushq
# By number: Kubernetes must see that it is not root.
USER 10001:10001
# Warm shutdown: running batches finish. Never SIGQUIT, which loses tasks under gevent.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "pushq"]
