# qvggt on NVIDIA GPUs: PyTorch and ONNX Runtime with CUDA, TensorRT. Built nowhere: this project has no Docker.
#   docker build -f docs/examples/docker/cuda.Dockerfile -t qvggt:cuda .      (in the root of the clone)
#   docker run --rm --gpus all -v $PWD:/data qvggt:cuda build /data/model.onnx -o /data/model.engine --backend tensorrt
# The host needs NVIDIA's driver and container toolkit; the CUDA libraries come with the Python packages.
FROM python:3.12-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY qvggt qvggt
COPY export export
COPY engines engines
COPY calib calib
COPY eval eval
# onnxruntime and onnxruntime-gpu are one module in two packages: the first has to go before the second is installed
RUN pip install . \
    && pip uninstall --yes onnxruntime \
    && pip install 'onnxruntime-gpu>=1.22' 'tensorrt>=10.12' \
    && useradd --uid 1000 --create-home qvggt

USER 1000
WORKDIR /data
RUN qvggt --version
ENTRYPOINT ["qvggt"]
CMD ["--help"]
