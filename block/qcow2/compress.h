// The two compressions of qcow2 clusters. Plain functions; any thread. A malformed stream is an
// error, never more output than asked for.
#pragma once
#include <memory>
#include <span>

#include "block/qcow2/layout.h"

namespace rhea::block::qcow2 {

/// Fills `out` exactly, from a stream that may have anything behind its end.
Result<> decompress(Compression kind, std::span<const u8> in, std::span<u8> out);

/// Keeps its tables between clusters.
class Compressor {
public:
    explicit Compressor(Compression kind);
    ~Compressor();
    Compressor(const Compressor &) = delete;
    Compressor &operator=(const Compressor &) = delete;
    /// Bytes written to `out`, or 0: it does not get smaller than `out`.
    usize compress(std::span<const u8> in, std::span<u8> out);

private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace rhea::block::qcow2
