#ifndef REFLECTIVE_DECIDE_H
#define REFLECTIVE_DECIDE_H

#include "../template/template.h"
#include "prepare.h"

/* What the state is read from, if this is the thread whose it is; or NULL. */
struct refl_kept *kept_by_this_thread(const struct refl_clone *clone);

/* Whether the template may serve this caller now; then with the state that the clone gets. -ESTALE: make another. */
int decide(const struct refl_clone *clone, const struct refl_kept *kept, struct template_request *r);

#endif
