// Opening images: formats, backing chains, and the options that a user gives for a drive.
//
// Configuration time, on the loop's thread: these turn the loop until the image is open. Backing
// images are opened read-only; a chain that loops, or is longer than 256, is refused. A file whose
// format is not given is probed; if it then passes for raw and is writable, writes to its first
// sector that would make it pass for another format are refused, for a guest could otherwise choose
// what its disk is taken for the next time.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "block/file/file_node.h"
#include "block/node.h"
#include "dm/core/describe.h"

namespace rhea::block {

struct OpenOptions {
    std::string format;  // "": probed
    FileOptions file;    // read_only holds for the format as well
    bool backing = true; // open the backing chain
    bool check = false;  // qcow2: to be checked and repaired
    bool warn = true;    // about probing
};

/// The image and all that is below it. Errors name the file.
Result<std::unique_ptr<Node>> open_image(loop::Loop &loop, const std::string &path,
                                         const OpenOptions &options);

/// What the first bytes of a file say: "qcow2" or "raw".
std::string_view probe_format(std::span<const u8> start) noexcept;
/// The formats that open_image() knows.
std::span<const std::string_view> known_formats() noexcept;

/// A backing file's name as it stands in the image at `image`: relative names are meant from there.
std::string backing_path(const std::string &image, const std::string &backing);

/// Of -drive and -blockdev: what concerns the image. A front end's own keys (if, index, media ...)
/// are its own business.
struct DriveOptions {
    std::string file;
    std::string format;
    bool readonly = false;
    bool snapshot = false;
    std::string cache = "writeback";
    std::string aio = "io_uring";
    std::string discard = "ignore";

    static constexpr auto fields() {
        return describe<DriveOptions>(
            Field<&DriveOptions::file>{.help = "the image: a file or a block device"},
            Field<&DriveOptions::format>{.help = "raw or qcow2; not given: probed"},
            Field<&DriveOptions::readonly>{.help = "the guest cannot write"},
            Field<&DriveOptions::snapshot>{
                .help = "writes go to a temporary file and are lost at the end"},
            Field<&DriveOptions::cache>{.help =
                                            "none, writeback, writethrough, directsync or unsafe"},
            Field<&DriveOptions::aio>{
                .help = "io_uring, native or threads: all are served by io_uring"},
            Field<&DriveOptions::discard>{.help = "unmap: give back what the guest discards; "
                                                  "ignore"});
    }
};

/// Throws ConfigError for what is wrong with the options, and for an image that cannot be opened.
std::unique_ptr<Node> open_drive(loop::Loop &loop, const DriveOptions &options);
/// The file options of a cache mode, or ConfigError.
FileOptions cache_mode(std::string_view cache);

/// An image on top of `base` that takes the writes, in an unlinked file in TMPDIR.
Result<std::unique_ptr<Node>> temporary_overlay(loop::Loop &loop, std::unique_ptr<Node> base);

} // namespace rhea::block
