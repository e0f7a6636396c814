// rhea-img: disk images from the command line.
#include <cstdio>
#include <cstring>
#include <string>
#include <unistd.h>

#include "block/tool/tool.h"
#include "dm/config/key_value.h"

namespace {

using namespace rhea;

struct Command {
    std::string_view name;
    int (*run)(loop::Loop &loop, std::span<char *const> words);
    const char *usage;
};

constexpr Command commands[] = {
    {"check", tool::command_check, "check [-q] [-f FMT] [--output=human|json] [-r leaks|all] FILE"},
    {"compare", tool::command_compare, "compare [-s] [-q] [-p] [-f FMT] [-F FMT] [-U] FILE1 FILE2"},
    {"convert", tool::command_convert,
     "convert [-c] [-p] [-q] [-n] [-U] [-W] [-f FMT] [-O FMT] [-t CACHE] [-S SIZE] [-m N]\n"
     "            [-l SNAPSHOT] [-o OPTIONS] FILE OUTPUT"},
    {"create", tool::command_create,
     "create [-q] [-f FMT] [-b BACKING [-F FMT]] [-u] [-o OPTIONS] FILE [SIZE]"},
    {"info", tool::command_info, "info [-f FMT] [--output=human|json] [--backing-chain] [-U] FILE"},
    {"map", tool::command_map,
     "map [-f FMT] [--start-offset=N] [--max-length=N] [--output=human|json] [-U] FILE"},
    {"resize", tool::command_resize, "resize [-q] [-f FMT] [--shrink] FILE [+-]SIZE"},
    {"snapshot", tool::command_snapshot,
     "snapshot [-q] [-U] [-f FMT] -l | -c NAME | -a NAME | -d NAME FILE"},
};

void usage(std::FILE *to) {
    std::fprintf(to, "usage: rhea-img COMMAND ...\n\n");
    for (const Command &c : commands)
        std::fprintf(to, "  %s\n", c.usage);
    std::fprintf(to, "\nFormats: %s. Sizes: a number with k, M, G or T (powers of 1024).\n",
                 config::join(block::known_formats()).c_str());
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        usage(stderr);
        return 1;
    }
    const std::string_view name = argv[1];
    if (name == "--help" || name == "-h" || name == "help") {
        usage(stdout);
        return 0;
    }
    const std::span<char *const> words(argv + 2, static_cast<usize>(argc - 2));
    std::vector<std::string_view> known;
    for (const Command &c : commands) {
        known.push_back(c.name);
        if (c.name != name)
            continue;
        for (const char *const w : words)
            if (std::strcmp(w, "--help") == 0 || std::strcmp(w, "-h") == 0) {
                std::printf("usage: rhea-img %s\n", c.usage);
                return 0;
            }
        try {
            loop::Loop loop;
            const int status = c.run(loop, words);
            if (std::fflush(stdout) != 0)
                throw ConfigError("standard output: " + std::string(std::strerror(errno)));
            return status;
        } catch (const ConfigError &e) {
            std::fflush(stdout);
            std::fprintf(stderr, "rhea-img: %s: %s\n", argv[1], e.what());
            // A comparison's 1 means "different".
            return name == "compare" ? 2 : 1;
        }
    }
    std::fprintf(stderr, "rhea-img: '%s': no such command%s (rhea-img --help)\n", argv[1],
                 config::did_you_mean(name, known).c_str());
    return 1;
}
