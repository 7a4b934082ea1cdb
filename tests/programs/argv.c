/* Says in one JSON object what the kernel handed to it: argv, environ, AT_EXECFN, comm, exe and cmdline.
 * A byte that is no printable ASCII is written as \u00XX: read the strings back as Latin-1. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <unistd.h>

extern char **environ;

static void put_byte(unsigned char byte)
{
    if (byte < 0x20 || byte > 0x7e || byte == '"' || byte == '\\')
        printf("\\u%04x", byte);
    else
        putchar(byte);
}

static void put_string(const char *string)
{
    putchar('"');
    while (*string)
        put_byte((unsigned char)*string++);
    putchar('"');
}

static void put_strings(const char *key, char **strings)
{
    printf("\"%s\": [", key);
    for (char **one = strings; *one; one++) {
        if (one != strings)
            printf(", ");
        put_string(*one);
    }
    printf("]");
}

static void put_file(const char *key, const char *path)
{
    char buffer[65536];
    int fd = open(path, O_RDONLY);
    ssize_t length;

    printf(", \"%s\": \"", key);
    while ((length = read(fd, buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < length; i++)
            put_byte((unsigned char)buffer[i]);
    close(fd);
    putchar('"');
}

static void put_link(const char *key, const char *path)
{
    char buffer[4097];
    ssize_t length = readlink(path, buffer, sizeof buffer - 1);

    buffer[length < 0 ? 0 : length] = '\0';
    printf(", \"%s\": ", key);
    put_string(buffer);
}

int main(int argc, char **argv)
{
    printf("{\"argc\": %d, ", argc);
    put_strings("argv", argv);
    printf(", ");
    put_strings("env", environ);
    printf(", \"execfn\": ");
    put_string((const char *)getauxval(AT_EXECFN));
    put_file("comm", "/proc/self/comm");
    put_link("exe", "/proc/self/exe");
    put_file("cmdline", "/proc/self/cmdline");
    puts("}");
    return 0;
}
