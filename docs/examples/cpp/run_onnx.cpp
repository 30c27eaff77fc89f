// Runs a file of `qvggt export` with ONNX Runtime and prints the cameras.
//
//   run_onnx model.onnx frame0.ppm frame1.ppm ...
//
// Frames are binary PPM files of the network's own size, or raw float32 [3, H, W], RGB in [0, 1]. ImageMagick makes them:
//   convert photo.jpg -resize 518x518^ -gravity center -extent 518x518 frame0.ppm
#include <onnxruntime_cxx_api.h>

#include "frames.h"

// The settings under which qvggt itself opens a file (qvggt/onnxruntime_config.py).
static void exact(Ort::SessionOptions& options) {
  options.AddConfigEntry("session.qdq_matmulnbits_accuracy_level", "1");
#if defined(__x86_64__) && defined(__GNUC__)
  // kernels for CPUs without VNNI add pairs of 8-bit products in 16 bits, which saturate
  if (!__builtin_cpu_supports("avx512vnni")) options.AddConfigEntry("session.x64quantprecision", "1");
#endif
}

static int run(int argc, char** argv) {
  if (argc < 3) throw std::runtime_error("usage: run_onnx model.onnx frame0.ppm frame1.ppm ...");
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "qvggt");
  Ort::SessionOptions options;
  exact(options);
  Ort::Session session(env, argv[1], options);

  // what the file says of itself: images [1, S, 3, H, W], S is -1 where any number of frames goes
  const std::vector<int64_t> shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  if (shape.size() != 5 || shape[3] < 1 || shape[4] < 1)
    throw std::runtime_error(std::string(argv[1]) + ": expected an input [1, S, 3, H, W] with fixed H and W");
  const int64_t frames = argc - 2, height = shape[3], width = shape[4];
  if (shape[1] > 0 && shape[1] != frames)
    throw std::runtime_error(std::string(argv[1]) + ": takes " + std::to_string(shape[1]) + " frames only");

  std::vector<float> images;
  for (int i = 2; i < argc; ++i) append_frame(argv[i], height, width, images);
  const std::vector<int64_t> dims = {1, frames, 3, height, width};
  const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const Ort::Value input =
      Ort::Value::CreateTensor<float>(memory, images.data(), images.size(), dims.data(), dims.size());

  // only what is asked for is computed: add "depth" [1, S, H, W, 1] and the others as you need them
  const char* inputs[] = {"images"};
  const char* outputs[] = {"pose_enc"};
  const auto values = session.Run(Ort::RunOptions{nullptr}, inputs, &input, 1, outputs, 1);
  print_cameras(values[0].GetTensorData<float>(), frames, height, width);
  return 0;
}

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {  // Ort::Exception is one too
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
