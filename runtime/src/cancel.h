/*
 * cancel.h - cancel tokens, and what hangs on them.
 */
#ifndef PYPROC_CANCEL_H
#define PYPROC_CANCEL_H

#include <pyproc.h>
#include <stdbool.h>

/* Something to be told once when the token fires. Belongs to its maker until cancel_detach has returned. */
typedef struct cancel_entry {
  struct cancel_entry *previous, *next;
  void (*fired)(void *argument); /* any thread, with the token's lock held: must not call back into it */
  void *argument;
} cancel_entry;

/* Another reference to the token (NULL is fine), which pyproc_cancel_free lets go: for who looks at it between entries. */
pyproc_cancel *cancel_ref(pyproc_cancel *token);

/* Hangs the entry on the token and holds a reference. Returns false, without doing either, when the token has fired
 * already. */
bool cancel_attach(pyproc_cancel *token, cancel_entry *entry);

/* Takes it off and lets the reference go: afterwards `fired` neither runs nor will. */
void cancel_detach(pyproc_cancel *token, cancel_entry *entry);

#endif
