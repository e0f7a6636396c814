// What the guest's kernel is asked for: calls, pipes, processes, page faults, files.
#include "tests/bench/work/work.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t calls(unsigned count) {
    uint64_t failures = 0;
    for (unsigned i = 0; i < count; ++i)
        failures += syscall(SYS_getppid) < 0;
    return count + failures;
}

// A byte to a child and back: two switches of address space a round.
static uint64_t ping_pong(unsigned rounds) {
    int there[2], back[2], status;
    unsigned char byte = 0;
    uint64_t sum = 0;
    must(pipe(there) == 0 && pipe(back) == 0, "pipe");
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1) {
            ++byte;
            if (write(back[1], &byte, 1) != 1)
                _exit(1);
        }
        _exit(0);
    }
    for (unsigned i = 0; i < rounds; ++i) {
        byte = (unsigned char)(i * 3);
        must(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "pipe");
        sum = fold(sum, byte);
    }
    close(there[1]);
    close(there[0]);
    close(back[0]);
    close(back[1]);
    must(waitpid(child, &status, 0) == child && status == 0, "child");
    return sum;
}

static uint64_t pipe_stream(unsigned kilobytes) {
    static unsigned char buffer[16384];
    int ends[2];
    uint64_t sum = 0;
    must(pipe(ends) == 0, "pipe");
    for (unsigned done = 0; done < kilobytes; done += sizeof buffer / 1024) {
        memset(buffer, (int)done, 64);
        must(write(ends[1], buffer, sizeof buffer) == sizeof buffer, "write");
        must(read(ends[0], buffer, sizeof buffer) == sizeof buffer, "read");
        sum = fold(sum, buffer[63]);
    }
    close(ends[0]);
    close(ends[1]);
    return sum;
}

static uint64_t forks(unsigned count) {
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; ++i) {
        int status;
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0)
            _exit((int)(i & 63));
        must(waitpid(child, &status, 0) == child && WIFEXITED(status), "child");
        sum = fold(sum, (uint64_t)WEXITSTATUS(status));
    }
    return sum;
}

static uint64_t executions(unsigned count) {
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; ++i) {
        int status;
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0) {
            execl("/proc/self/exe", "work", "nothing", (char *)NULL);
            _exit(127);
        }
        must(waitpid(child, &status, 0) == child && WIFEXITED(status), "child");
        sum = fold(sum, (uint64_t)WEXITSTATUS(status));
    }
    return sum;
}

static uint64_t faults(unsigned rounds) {
    enum { pages = 256 };
    uint64_t sum = 0;
    for (unsigned r = 0; r < rounds; ++r) {
        unsigned char *area =
            mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        must(area != MAP_FAILED, "mmap");
        for (unsigned p = 0; p < pages; ++p)
            area[p * 4096] = (unsigned char)(p + r);
        must(mprotect(area, pages * 4096 / 2, PROT_READ) == 0, "mprotect");
        for (unsigned p = 0; p < pages; p += 16)
            sum = fold(sum, area[p * 4096]);
        must(munmap(area, pages * 4096) == 0, "munmap");
    }
    return sum;
}

static uint64_t files(unsigned rounds) {
    static char buffer[4096], name[64];
    uint64_t sum = 0;
    struct stat about;
    for (unsigned r = 0; r < rounds; ++r) {
        snprintf(name, sizeof name, "/tmp/work-%d-%u", (int)getpid(), r % 8);
        int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
        must(file >= 0, name);
        for (int i = 0; i < 4; ++i) {
            buffer[0] = (char)(r + (unsigned)i);
            must(write(file, buffer, sizeof buffer) == sizeof buffer, "write");
        }
        must(pread(file, buffer, sizeof buffer, 4096) == sizeof buffer, "pread");
        must(fstat(file, &about) == 0 && stat(name, &about) == 0, "stat");
        close(file);
        must(unlink(name) == 0, "unlink");
        sum = fold(sum, (uint64_t)about.st_size + (unsigned char)buffer[0]);
    }
    return sum;
}

const struct Workload system_workloads[] = {
    {"system-calls", calls, 400000},
    {"ping-pong", ping_pong, 8000},
    {"pipe-stream", pipe_stream, 120000},
    {"forks", forks, 500},
    {"executions", executions, 120},
    {"page-faults", faults, 150},
    {"files", files, 4000},
    {0},
};
