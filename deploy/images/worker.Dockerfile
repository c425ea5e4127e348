# The workers' whole environment: passrl, an engine, and Beam's boot program. From the repository's root:
#   docker build -f deploy/images/worker.Dockerfile --build-arg LIST=cpu -t passrl-worker:cpu .
#   docker build -f deploy/images/worker.Dockerfile --build-arg LIST=gpu -t passrl-worker:gpu .
# LIST: cpu, gpu (stores: s3), gcp, gpu-gcp (stores: s3 and gs, for Dataflow).
# The GPU builds take CUDA from the wheels in their list; the host gives the driver.
ARG PYTHON=3.11
FROM apache/beam_python3.11_sdk:2.77.0 AS beam

FROM python:${PYTHON}-slim
ARG LIST=cpu
# vLLM compiles kernels for the machine it finds.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*
COPY requirements/${LIST}.txt /passrl/requirements.txt
# The list is complete and pinned; vLLM's own pins of torch's companions clash with it, so nothing is resolved again.
RUN pip install --no-cache-dir --no-deps --requirement /passrl/requirements.txt
COPY pyproject.toml README.md LICENSE /passrl/
COPY pass_ops /passrl/pass_ops
COPY trainer /passrl/trainer
COPY pipelines /passrl/pipelines
RUN pip install --no-cache-dir --no-deps /passrl
# Your signals, verifiers and reward functions: a package of their own, in an image made FROM this one.
COPY --from=beam /opt/apache/beam /opt/apache/beam
# The hub is asked only for models that a configuration names by org/name.
ENV VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=WARNING
ENTRYPOINT ["/opt/apache/beam/boot"]
