#ifndef REFLECTIVE_NEAR_H
#define REFLECTIVE_NEAR_H

#include "../template/template.h"

/* At each start, before its order is sent. `kept` is the calling thread's, or NULL. */
int template_near(struct template_facts *facts, const struct refl_kept *kept);

#endif
