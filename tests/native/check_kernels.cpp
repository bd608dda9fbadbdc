// Every kernel of every instruction set that runs here, against naive loops in double: for machines where Python and NumPy
// are far away, such as an emulated one. The Python suite is the thorough one; this one goes through the same ways to
// compute an operation over small shapes, a file for each; check.h has what they share.
//
//   check_kernels [ISA]     prints a line for each case that fails, then 'N passed, M failed'; exit status 1 on failure
#include <signal.h>

#include "check.h"

using namespace fastcv;

static void report_crash(int signal) {
    const char* what = signal == SIGILL ? ": illegal instruction\n" : ": access outside an array\n";
    if (write(1, "FAILED ", 7) + write(1, check::current, strlen(check::current)) + write(1, what, strlen(what)) < 0) _exit(2);
    _exit(1);
}

int main(int argc, char** argv) {
    for (const int signal : {SIGSEGV, SIGBUS, SIGILL}) ::signal(signal, report_crash);
    setvbuf(stdout, nullptr, _IOLBF, 0);
    const char* only = argc > 1 ? argv[1] : nullptr;
    int tables = 0;
    for (const IsaEntry* isa = kIsas; isa->name; isa++) {
        if ((only && strcmp(only, isa->name) != 0) || !isa->runs_here()) continue;
        const KernelTable* table = select_kernels(isa->name);
        if (!table || strcmp(table->isa, isa->name) != 0) {
            printf("FAILED %s: it runs here, but was not chosen\n", isa->name);
            return 1;
        }
        printf("checking %s\n", isa->name);
        check::convolution(*table);
        check::gram_matrix(*table);
        check::max_pool2d(*table);
        check::attention(*table);
        check::assignment(*table);
        tables++;
    }
    if (tables == 0) printf("FAILED %s: no such instruction set here\n", only);
    printf("%d passed, %d failed\n", check::passed, check::failed);
    return check::failed || tables == 0;
}
