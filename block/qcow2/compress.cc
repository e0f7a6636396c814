#include "block/qcow2/compress.h"

#include <cerrno>
#include <zlib.h>
#include <zstd.h>

namespace rhea::block::qcow2 {

namespace {
constexpr int window_bits = -12; // raw deflate, 4 KiB window: what every reader of the format has
}

Result<> decompress(Compression kind, std::span<const u8> in, std::span<u8> out) {
    if (kind == Compression::zstd) {
        const std::unique_ptr<ZSTD_DCtx, usize (*)(ZSTD_DCtx *)> context(ZSTD_createDCtx(),
                                                                         ZSTD_freeDCtx);
        if (!context)
            return fail(ENOMEM, "zstd");
        ZSTD_inBuffer input{in.data(), in.size(), 0};
        ZSTD_outBuffer output{out.data(), out.size(), 0};
        while (output.pos < output.size) {
            const usize before = output.pos + input.pos;
            const usize r = ZSTD_decompressStream(context.get(), &output, &input);
            if (ZSTD_isError(r) || (output.pos < output.size && before == output.pos + input.pos))
                return fail(EIO, "qcow2: a malformed compressed cluster");
        }
        return {};
    }
    z_stream z{};
    if (inflateInit2(&z, window_bits) != Z_OK)
        return fail(ENOMEM, "zlib");
    z.next_in = const_cast<u8 *>(in.data());
    z.avail_in = static_cast<unsigned>(in.size());
    z.next_out = out.data();
    z.avail_out = static_cast<unsigned>(out.size());
    const int r = inflate(&z, Z_FINISH);
    const bool full = z.avail_out == 0;
    inflateEnd(&z);
    if ((r == Z_STREAM_END || r == Z_BUF_ERROR) && full)
        return {};
    return fail(EIO, "qcow2: a malformed compressed cluster");
}

struct Compressor::State {
    Compression kind;
    z_stream z{};
    ZSTD_CCtx *zstd = nullptr;
};

Compressor::Compressor(Compression kind) : state_(std::make_unique<State>()) {
    state_->kind = kind;
    if (kind == Compression::zstd) {
        state_->zstd = ZSTD_createCCtx();
        VERIFY(state_->zstd);
    } else {
        VERIFY(deflateInit2(&state_->z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, window_bits, 9,
                            Z_DEFAULT_STRATEGY) == Z_OK);
    }
}

Compressor::~Compressor() {
    if (state_->kind == Compression::zstd)
        ZSTD_freeCCtx(state_->zstd);
    else
        deflateEnd(&state_->z);
}

usize Compressor::compress(std::span<const u8> in, std::span<u8> out) {
    if (state_->kind == Compression::zstd) {
        const usize n = ZSTD_compressCCtx(state_->zstd, out.data(), out.size(), in.data(),
                                          in.size(), ZSTD_CLEVEL_DEFAULT);
        return ZSTD_isError(n) ? 0 : n;
    }
    z_stream &z = state_->z;
    deflateReset(&z);
    z.next_in = const_cast<u8 *>(in.data());
    z.avail_in = static_cast<unsigned>(in.size());
    z.next_out = out.data();
    z.avail_out = static_cast<unsigned>(out.size());
    return deflate(&z, Z_FINISH) == Z_STREAM_END ? out.size() - z.avail_out : 0;
}

} // namespace rhea::block::qcow2
