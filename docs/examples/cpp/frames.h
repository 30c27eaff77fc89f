// Frames from files, and cameras as text: what both examples share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

// The number after whitespace and comments of a PPM header.
inline int ppm_number(std::istream& file) {
  while ((file >> std::ws).peek() == '#') file.ignore(1 << 20, '\n');
  int number = 0;
  if (!(file >> number)) throw std::runtime_error("damaged PPM header");
  return number;
}

// Appends one frame [3, height, width], RGB in [0, 1]: a binary PPM (P6, 8 bits) of that size, or raw float32 values.
inline void append_frame(const std::string& path, int64_t height, int64_t width, std::vector<float>& frames) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  const int64_t plane = height * width, start = frames.size();
  frames.resize(start + 3 * plane);
  std::string magic(2, ' ');
  file.read(&magic[0], 2);
  if (magic == "P6") {
    const int w = ppm_number(file), h = ppm_number(file), largest = ppm_number(file);
    if (w != width || h != height || largest != 255)
      throw std::runtime_error(path + ": expected " + std::to_string(width) + "x" + std::to_string(height) +
                               " pixels of 8 bits; scale and crop it first");
    file.get();
    std::vector<unsigned char> pixels(3 * plane);
    file.read(reinterpret_cast<char*>(pixels.data()), pixels.size());
    for (int64_t i = 0; i < plane; ++i)
      for (int c = 0; c < 3; ++c) frames[start + c * plane + i] = pixels[3 * i + c] / 255.0f;
  } else {
    file.clear();
    file.seekg(0);
    file.read(reinterpret_cast<char*>(&frames[start]), 3 * plane * sizeof(float));
  }
  if (!file || file.peek() != std::char_traits<char>::eof())
    throw std::runtime_error(path + ": has another size than a frame of the network");
}

// Pixels from an angle of view; angles are kept away from 0 and pi, as qvggt keeps them.
inline double focal_length(int64_t side, double angle) {
  return side / 2.0 / std::tan(std::min(std::max(angle, 1e-3), std::acos(-1.0) - 1e-3) / 2);
}

// Prints pose_enc [frames, 9]: translation, quaternion xyzw (camera-from-world) and focal lengths in pixels.
inline void print_cameras(const float* poses, int64_t frames, int64_t height, int64_t width) {
  std::printf("frame tx ty tz qx qy qz qw fx fy\n");
  for (int64_t f = 0; f < frames; ++f, poses += 9) {
    std::printf("%d", static_cast<int>(f));
    for (int i = 0; i < 7; ++i) std::printf(" %.6f", poses[i]);
    std::printf(" %.4f %.4f\n", focal_length(width, poses[8]), focal_length(height, poses[7]));
  }
}
