// Runs an engine of `qvggt build --backend tensorrt` with TensorRT 10 or newer and prints the cameras. It was never run:
// this project had no GPU. An engine of TensorRT-RTX needs that library's headers instead; the calls are the same.
//
//   run_engine model.engine frame0.ppm frame1.ppm ...
//
// Frames as for run_onnx. An engine is code: run only what you built yourself, or whose manifest you checked.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <memory>

#include "frames.h"

struct Logger : nvinfer1::ILogger {
  void log(Severity severity, const char* text) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", text);
  }
};

static void check(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

// Memory of the GPU for `count` floats.
static std::unique_ptr<void, cudaError_t (*)(void*)> on_device(int64_t count) {
  void* place = nullptr;
  check(cudaMalloc(&place, count * sizeof(float)));
  return {place, cudaFree};
}

static int run(int argc, char** argv) {
  if (argc < 3) throw std::runtime_error("usage: run_engine model.engine frame0.ppm frame1.ppm ...");
  std::ifstream file(argv[1], std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Logger logger;
  const std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(logger));
  const std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(bytes.data(), bytes.size()));
  if (!engine) throw std::runtime_error(std::string(argv[1]) + ": no engine of this TensorRT version and GPU");
  const std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());

  nvinfer1::Dims shape = engine->getTensorShape("images");  // [1, S, 3, H, W], S is -1 within the engine's profile
  if (shape.nbDims != 5) throw std::runtime_error(std::string(argv[1]) + ": expected an input [1, S, 3, H, W]");
  const int64_t frames = argc - 2, height = shape.d[3], width = shape.d[4];
  shape.d[1] = frames;
  if (!context->setInputShape("images", shape))
    throw std::runtime_error(std::string(argv[1]) + ": was not built for " + std::to_string(frames) + " frames");
  std::vector<float> images;
  for (int i = 2; i < argc; ++i) append_frame(argv[i], height, width, images);

  // every input and output needs memory, also those nobody reads
  std::vector<std::unique_ptr<void, cudaError_t (*)(void*)>> memory;
  std::vector<float> poses(frames * 9);
  const void* found = nullptr;
  for (int i = 0; i < engine->getNbIOTensors(); ++i) {
    const std::string name = engine->getIOTensorName(i);
    const nvinfer1::Dims dims = context->getTensorShape(name.c_str());
    int64_t count = 1;
    for (int d = 0; d < dims.nbDims; ++d) count *= dims.d[d];
    memory.push_back(on_device(count));
    context->setTensorAddress(name.c_str(), memory.back().get());
    if (name == "images")
      check(cudaMemcpy(memory.back().get(), images.data(), images.size() * sizeof(float), cudaMemcpyHostToDevice));
    if (name == "pose_enc") found = memory.back().get();
  }
  if (!found) throw std::runtime_error(std::string(argv[1]) + ": computes no pose_enc");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreate(&stream));
  if (!context->enqueueV3(stream)) throw std::runtime_error("the engine did not start");
  check(cudaStreamSynchronize(stream));
  check(cudaMemcpy(poses.data(), found, poses.size() * sizeof(float), cudaMemcpyDeviceToHost));
  check(cudaStreamDestroy(stream));
  print_cameras(poses.data(), frames, height, width);
  return 0;
}

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
