// Pictures as files: PPM (binary, P6) and PNG (8-bit RGB).
//
// Facts: the netpbm format's description; PNG specification, second edition (ISO/IEC 15948).
// Plain functions, any thread.
#pragma once
#include "dm/core/result.h"
#include "dm/ui/surface.h"

#include <string>
#include <vector>

namespace rhea::ui {

std::vector<u8> encode_ppm(const Surface &surface);
std::vector<u8> encode_png(const Surface &surface);

// To a file of that name, which is replaced only when all of it is written.
Result<> write_ppm(const Surface &surface, const std::string &path);
Result<> write_png(const Surface &surface, const std::string &path);

} // namespace rhea::ui
