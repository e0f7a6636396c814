#pragma once
// CharBackends: the back ends of one machine, made from what the command line says.
//
// Made on the main thread while the machine is configured; outlives the devices. A back end serves
// one device: asking for it twice is a ConfigError, and so is a second user of the terminal.
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dm/chardev/stream.h"
#include "dm/chardev/terminal.h"

namespace rhea::chardev {

class CharBackends {
public:
    /// `quit`: Ctrl-A x was typed; called on the loop's thread.
    CharBackends(loop::Loop &loop, Callback quit) : loop_(loop), quit_(quit) {}

    /// The argument of -chardev: "stdio,id=d", "file,id=log,path=F".
    void add(std::string_view specification);
    /// The argument of -serial or -debugcon: stdio, mon:stdio, null, none, pty, file:F, pipe:F,
    /// tcp:H:P, unix:F[,server], chardev:ID. Returns null for none. `label` names it in messages.
    CharBackend *open(std::string_view specification, const std::string &label);
    /// One that add() made, for its one device.
    CharBackend &take(std::string_view id);

    /// What a monitor talks through: a back end, or a socket on which clients come and go.
    struct Endpoint {
        CharBackend *backend = nullptr; // null with no socket either: none
        int listening = -1;             // the caller's from now on
        int first = -1;                 // wait=on: the client that was waited for
        std::string path;               // to remove in the end, if not empty
    };
    /// The argument of -qmp or -monitor: as for open(), and with server also wait=off.
    Endpoint open_endpoint(std::string_view specification, const std::string &label);
    Endpoint take_endpoint(std::string_view id);

    struct Info {
        std::string label, filename;
    };
    std::vector<Info> list() const;

    /// The monitor's side of the terminal that has the escape keys; null: there is none.
    CharBackend *second_of_terminal();
    ~CharBackends();

    /// Writes out what the guest has sent so far. Turns the loop.
    void flush();
    /// The program is about to be stopped: the terminal as it was. And it goes on: raw again.
    void release_terminal() noexcept;
    void take_terminal_back();

private:
    struct Entry {
        std::unique_ptr<CharBackend> backend;
        StreamBackend *stream = nullptr; // the same, if it has output to flush
        bool taken = false;
        int listening = -1; // instead of a back end
        std::string path{};
        std::string label{}, filename{};
    };
    struct Fields;
    struct Parsed;
    Parsed parse(std::string_view text) const;
    Entry &find(std::string_view id);
    Entry make(std::string_view kind, const Fields &fields, const std::string &label);
    Entry make_stdio(const Fields &fields, const std::string &label);
    Entry stream(StreamBackend::Setup setup);

    loop::Loop &loop_;
    Callback quit_;
    std::unique_ptr<Terminal> terminal_;
    bool stdio_used_ = false;
    StreamBackend *stdio_ = nullptr;
    StreamBackend *shared_terminal_ = nullptr;
    std::map<std::string, Entry, std::less<>> entries_;
    unsigned unnamed_ = 0;
};

} // namespace rhea::chardev
