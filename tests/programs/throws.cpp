// A library that throws through its caller, and has thread-local storage of its own.
#include <stdexcept>

static thread_local int calls = 6;

extern "C" void throws()
{
    throw std::runtime_error(calls++ == 6 ? "the library's" : "again");
}
