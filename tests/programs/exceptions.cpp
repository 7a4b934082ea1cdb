// Exceptions, through frames with destructors, threads and (if argv[1] says so) a library loaded by dlopen.
#include <cstdio>
#include <dlfcn.h>
#include <stdexcept>
#include <string>
#include <thread>

static int destroyed;

struct Counted {
    ~Counted() { destroyed++; }
};

static void deep(int depth)
{
    Counted one;
    if (depth == 0)
        throw std::runtime_error("thrown");
    deep(depth - 1);
}

static thread_local std::string mine = "initial";

int main(int argc, char **argv)
{
    try {
        deep(20);
    } catch (const std::exception &caught) {
        std::printf("caught %s, %d destroyed\n", caught.what(), destroyed);
    }
    std::thread other([] {
        mine += " in the thread";
        try {
            throw 5;
        } catch (int number) {
            std::printf("%s: %d\n", mine.c_str(), number);
        }
    });
    other.join();
    if (argc > 1) {
        void *library = dlopen(argv[1], RTLD_NOW);
        auto throws = library ? reinterpret_cast<void (*)()>(dlsym(library, "throws")) : nullptr;
        try {
            if (throws)
                throws();
        } catch (const std::exception &caught) {
            std::printf("from the library: %s\n", caught.what());
        }
    }
    std::fflush(stdout);
    throw std::logic_error("nobody catches this: " + mine);
}
