# qvggt on CPUs: ONNX Runtime and OpenVINO. Built nowhere: this project has no Docker.
#   docker build -f docs/examples/docker/cpu.Dockerfile -t qvggt:cpu .        (in the root of the clone)
#   docker run --rm -v $PWD:/data qvggt:cpu export tiny --format w8a8 -o /data/tiny-w8a8.onnx
FROM python:3.12-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# PyTorch without CUDA, some 200 MB instead of 5 GB
RUN pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY qvggt qvggt
COPY export export
COPY engines engines
COPY calib calib
COPY eval eval
RUN pip install -c constraints.txt '.[openvino]' \
    && useradd --uid 1000 --create-home qvggt

USER 1000
WORKDIR /data
RUN qvggt --version
ENTRYPOINT ["qvggt"]
CMD ["--help"]
