/* SPDX-License-Identifier: MIT
 * Bits per weight of the decoder's linears. */
#include "linear_bits.h"

double bal_linear_bpw(bal_model *m)
{
    double bits = 0, weights = 0;
    for (int l = 0; l < m->config.text.layers; l++)
        for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
            const bal_linear *w = bal_decoder_linear(&m->layers[l], i);
            weights += (double)w->n * w->k;
            bits += 8.0 * (double)bal_linear_bytes(w);
        }
    return bits / weights;
}
