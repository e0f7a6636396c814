// work SCALE [NAME...]: runs the workloads (all, without names) at SCALE per cent of their amount
// and prints, for each, `BEGIN name` and `END name group checksum cpu-seconds`. work list: their
// names. work nothing: ends at once (what the executions workload starts).
#include "tests/bench/work/work.h"
#include <sys/resource.h>

static const struct {
    const char *name;
    const struct Workload *workloads;
} groups[] = {{"integer", integer_workloads},
              {"float", float_workloads},
              {"memory", memory_workloads},
              {"system", system_workloads}};

static double seconds(int who) {
    struct rusage usage;
    getrusage(who, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static double cpu_seconds(void) {
    return seconds(RUSAGE_SELF) + seconds(RUSAGE_CHILDREN);
}

static int wanted(const char *name, int count, char **names) {
    for (int i = 0; i < count; ++i)
        if (!strcmp(names[i], name))
            return 1;
    return count == 0;
}

static int run(double scale, int count, char **names) {
    int ran = 0;
    for (unsigned g = 0; g < sizeof groups / sizeof *groups; ++g)
        for (const struct Workload *w = groups[g].workloads; w->name; ++w) {
            if (!wanted(w->name, count, names))
                continue;
            unsigned amount = (unsigned)(w->amount * scale);
            printf("BEGIN %s\n", w->name);
            fflush(stdout); // before a fork could print it twice, and for whoever reads the clock
            double before = cpu_seconds();
            uint64_t sum = w->run(amount ? amount : 1);
            printf("END %s %s %016llx %.6f\n", w->name, groups[g].name, (unsigned long long)sum,
                   cpu_seconds() - before);
            fflush(stdout);
            ++ran;
        }
    return ran;
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "nothing"))
        return 3; // seen by whoever waits
    if (argc == 2 && !strcmp(argv[1], "list")) {
        for (unsigned g = 0; g < sizeof groups / sizeof *groups; ++g)
            for (const struct Workload *w = groups[g].workloads; w->name; ++w)
                printf("%s %s\n", w->name, groups[g].name);
        return 0;
    }
    double scale = argc > 1 ? atof(argv[1]) / 100 : 0;
    if (scale <= 0) {
        fprintf(stderr, "usage: work SCALE [NAME...] | list\n");
        return 1;
    }
    if (!run(scale, argc - 2, argv + 2)) {
        fprintf(stderr, "work: no workload of that name\n");
        return 1;
    }
    return 0;
}
