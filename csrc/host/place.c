/* Where a template should run, as seen from its host: that is in shared memory (template/place.c). */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../template/template.h"
#include "place.h"

enum { LOOK = 4 /* starts */, ENOUGH = 4 };

/* As many tasks are running, or could be, as there are processors: /proc/loadavg, proc(5). This one is. */
static int crowded(const struct refl_kept *kept)
{
    char text[128];
    ssize_t got = kept->load < 0 ? 0 : pread(kept->load, text, sizeof text - 1, 0);
    if (got <= 0)
        return 0;
    text[got] = 0;
    const char *slash = strchr(text, '/');
    while (slash && slash > text && slash[-1] != ' ')
        slash--;
    return slash && strtoll(slash, NULL, 10) >= kept->processors;
}

/* One look may be chance: several in a row decide. But who has another start under way wants both to run at once. */
enum template_place template_place(struct template_facts *facts, const struct refl_kept *kept)
{
    if (!kept || (facts->last && !kill(facts->last, 0))) {
        facts->crowded = 0;
        return ANYWHERE;
    }
    if (facts->starts++ % LOOK == 0)
        facts->crowded =
            crowded(kept) ? facts->crowded + (facts->crowded < 2 * ENOUGH) : facts->crowded - (facts->crowded > 0);
    return facts->crowded >= ENOUGH ? NEAR : FAR;
}
