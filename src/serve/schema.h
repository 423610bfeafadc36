/* SPDX-License-Identifier: MIT
 * From response_format to a grammar. Everything the grammar lets through satisfies the schema;
 * what the schema leaves open is narrowed where a choice must be made:
 *   - properties come in the order of the schema, those not listed are never written;
 *   - white space is nothing, one blank, or a newline with at most 20 blanks or tabs;
 *   - numbers have at most 16 digits before and after the point, exponents two.
 * Read: type (one or several), properties, required, additionalProperties, items, minItems,
 * maxItems, minLength, maxLength, enum, const, anyOf, $ref into the schema itself, $defs and
 * definitions; true and {} for anything. Annotations (title, description, default, examples,
 * $schema, $id, $comment, deprecated, readOnly, writeOnly) are skipped. Every other keyword is
 * refused by name, as is a schema that nothing can satisfy. */
#ifndef BAL_SERVE_SCHEMA_H
#define BAL_SERVE_SCHEMA_H

#include "serve/grammar.h"
#include "serve/refusal.h"

/* `schema` NULL: any JSON object. On failure *g is empty and *f names keyword and place. */
bal_status bal_schema_compile(bal_grammar *g, const json_t *schema, bal_refusal *f);

#endif
