# What tests need to run inside the appliance: pytest and hypothesis beside its own packages.
ARG IMAGE=airlab-test:cpu
FROM ${IMAGE}
USER 0:0
COPY requirements-dev.txt /
RUN awk '/^[a-z]/ { wanted = /^(hypothesis|iniconfig|packaging|pluggy|pygments|pytest|pytest-asyncio|sortedcontainers)==/ } wanted' \
        /requirements-dev.txt >/wanted.txt \
    && python3 -m venv /pytest \
    && /pytest/bin/pip install --no-cache-dir --quiet --require-hashes --requirement /wanted.txt
ENV PYTHONPATH=/src:/pytest/lib/python3.13/site-packages
USER 10001:10001
