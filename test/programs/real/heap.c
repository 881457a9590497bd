/* SPDX-License-Identifier: MIT */
/* Threads that allocate, fill, check and free, beside a block that stays: for what watches a program's memory
 * (sanitizers, valgrind, gdb). Prints a number that depends on all that was held. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEPT (16 << 20)

static void *churn(void *arg) {
    unsigned long *sum = arg;
    for (int round = 0; round < 20; round++) {
        char *block[100];
        for (int i = 0; i < 100; i++) {
            block[i] = malloc(20000);
            memset(block[i], i + round, 20000);
        }
        usleep(30000);
        for (int i = 0; i < 100; i++) {
            *sum = *sum * 31 + (unsigned long)block[i][100];
            free(block[i]);
        }
    }
    return arg;
}

int main(void) {
    unsigned long sums[2] = {0, 0}, kept_sum = 0;
    pthread_t threads[2];
    char *kept = malloc(KEPT);
    memset(kept, 5, KEPT);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, churn, &sums[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < KEPT; i++)
        kept_sum += (unsigned long)kept[i];
    free(kept);
    printf("%lu %lu %lu\n", sums[0], sums[1], kept_sum);
    return 0;
}
