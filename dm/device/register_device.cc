#include "dm/device/register_device.h"

namespace rhea {

[[gnu::section("rhea_trace"), gnu::used]] constinit TracePoint trace_register_read{
    "register_read", "a register of a device is read, by its name"};
[[gnu::section("rhea_trace"), gnu::used]] constinit TracePoint trace_register_write{
    "register_write", "a register of a device is written, by its name"};

} // namespace rhea
