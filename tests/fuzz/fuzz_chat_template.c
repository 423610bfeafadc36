/* SPDX-License-Identifier: MIT
 * Any bytes as a chat_template: known or not, and what is said about it is a whole sentence. */
#include "text/chat.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bal_error err = {0};
    bal_chat_family f = BAL_CHAT_N_FAMILIES;
    const bal_status st = bal_chat_family_recognise(&f, (const char *)data, size, &err);
    if (st >= 0 ? f >= BAL_CHAT_PLAIN : err.text[0] == 0) abort();
    return 0;
}
