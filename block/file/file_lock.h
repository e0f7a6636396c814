// lock_file: keeps two programs from writing one image, and names the one that is in the way.
//
// Locks of the open file description (F_OFD_SETLK, fcntl(2)): they end with the descriptor, however
// the program ends, and hold between two opens in one program. The bytes that are locked are the
// ones that other programs of this kind use, so that these respect each other: 100 + p says that
// the holder uses permission p, 200 + p that it does not let others use it, with p = 0 reading,
// 1 writing, 3 resizing.
#pragma once
#include <string>

#include "block/node.h"

namespace rhea::block {

/// EAGAIN names the holders: "disk.img: is in use by qemu-img (pid 4711)". A file system without
/// locks is no error.
Result<> lock_file(int fd, const std::string &name, const Permissions &permissions);

/// "rhea (pid 12), qemu-img (pid 34)": who has locks on this file, as far as /proc shows; or "".
std::string lock_holders(int fd);

} // namespace rhea::block
