# The image of the Flex template: the CPU worker image, Google's launcher program, and deploy/dataflow/launch.py.
#   docker build -f deploy/dataflow/launcher.Dockerfile --build-arg WORKER=passrl-worker:gcp --build-arg LAUNCHER=... .
# LAUNCHER: Google's python311-template-launcher-base. WORKER: deploy/images/worker.Dockerfile with LIST=gcp.
ARG WORKER
ARG LAUNCHER
FROM ${LAUNCHER} AS launcher
FROM ${WORKER}
COPY --from=launcher /opt/google/dataflow/python_template_launcher /opt/google/dataflow/python_template_launcher
COPY deploy/dataflow/launch.py /passrl/launch.py
COPY configs /passrl/configs
ENV FLEX_TEMPLATE_PYTHON_PY_FILE=/passrl/launch.py
ENTRYPOINT ["/opt/google/dataflow/python_template_launcher"]
