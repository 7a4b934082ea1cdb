#ifndef REFLECTIVE_PLACE_H
#define REFLECTIVE_PLACE_H

#include "../template/template.h"

/* At each start, before its order is sent. `kept` is the calling thread's, or NULL. */
enum template_place template_place(struct template_facts *facts, const struct refl_kept *kept);

#endif
