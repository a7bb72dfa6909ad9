// Four-way DHCP exchanges at a set rate through a relay agent's address, each with a MAC of its own. It does what perfdhcp
// does, at a tenth of the processor time, so that on a small machine the server is what is measured; and it knows how
// long each answer took.
//
//   dhcpload RELAY_IP SERVER_IP RATE SECONDS [OCTET]    prints JSON: counts, and waits in ms
//
// Within SECONDS it begins RATE exchanges a second, evenly; what is not answered a tenth of a second after the end is lost: a server
// that only puts off what it can't do would gain by more. MACs are 02:OCTET:number, in hexadecimal; OCTET is 00 unless told.
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, SIZE = 300, COOKIE = 236, OPTIONS = 240, DISCOVER = 1, OFFER = 2, REQUEST = 3, ACK = 5 };

struct exchange {
    double discovered, requested, offer_ms, ack_ms;
};

// In seconds.
static const double GRACE = 0.1;

static struct sockaddr_in local, server;
static unsigned char octet;
static int sock;
static unsigned char out[BATCH][SIZE];
static struct mmsghdr messages[BATCH];
static struct iovec parts[BATCH];
static int waiting;

static void flush(void) {
    for (int done = 0; done < waiting;) {
        int n = sendmmsg(sock, messages + done, waiting - done, 0);
        if (n < 0) die("sendmmsg");
        done += n;
    }
    waiting = 0;
}

// Puts the next packet of exchange `id` in the batch; `offer` is what a REQUEST answers.
static void put(unsigned id, int type, const unsigned char *offer, const unsigned char *server_id) {
    unsigned char *p = out[waiting], *o = p + OPTIONS;
    memset(p, 0, SIZE);
    p[0] = 1, p[1] = 1, p[2] = 6, p[3] = 1;
    unsigned xid = htonl(id), mac = htonl(id);
    memcpy(p + 4, &xid, 4);
    memcpy(p + 24, &local.sin_addr, 4);
    p[28] = 2, p[29] = octet;
    memcpy(p + 30, &mac, 4);
    memcpy(p + COOKIE, "\x63\x82\x53\x63", 4);
    *o++ = 53, *o++ = 1, *o++ = type;
    if (type == REQUEST) {
        *o++ = 54, *o++ = 4, memcpy(o, server_id, 4), o += 4;
        *o++ = 50, *o++ = 4, memcpy(o, offer + 16, 4), o += 4;
    }
    memcpy(o, "\x37\x07\x01\x1c\x02\x03\x0f\x06\x0c\xff", 10);
    if (++waiting == BATCH) flush();
}

// The value of an option, or null; `len` is that of the packet.
static const unsigned char *option(const unsigned char *p, int len, int code) {
    for (int at = OPTIONS; at + 1 < len && p[at] != 255;) {
        if (p[at] == 0) { at++; continue; }
        int size = p[at + 1];
        if (at + 2 + size > len) return NULL;
        if (p[at] == code) return size > 0 ? p + at + 2 : NULL;
        at += 2 + size;
    }
    return NULL;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void tell(const char *name, double *waits, long sent, long got) {
    qsort(waits, got, sizeof *waits, by_size);
    double sum = 0;
    for (long i = 0; i < got; i++) sum += waits[i];
    printf("\"%s\": {\"sent\": %ld, \"received\": %ld", name, sent, got);
    if (got > 0)
        printf(", \"avg_ms\": %.4f, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f", sum / got, waits[got / 2],
               waits[got * 99 / 100], waits[got - 1]);
    printf("}");
}

int main(int argc, char **argv) {
    if (argc < 5) return fprintf(stderr, "usage: dhcpload RELAY_IP SERVER_IP RATE SECONDS [OCTET]\n"), 2;
    if (argc > 5) octet = strtol(argv[5], NULL, 16);
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    long all = rate * seconds;
    local.sin_family = server.sin_family = AF_INET;
    local.sin_port = server.sin_port = htons(67);
    inet_pton(AF_INET, argv[1], &local.sin_addr);
    inet_pton(AF_INET, argv[2], &server.sin_addr);
    // Timers of 50 us would be asked for in vain.
    prctl(PR_SET_TIMERSLACK, 1);
    sock = socket(AF_INET, SOCK_DGRAM, 0);
    int queue = 64 << 20;
    if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &queue, sizeof queue)) die("SO_RCVBUFFORCE");
    if (bind(sock, (struct sockaddr *)&local, sizeof local)) die("bind");
    if (connect(sock, (struct sockaddr *)&server, sizeof server)) die("connect");
    struct exchange *of = calloc(all + 1, sizeof *of);
    double *waits = calloc(all + 1, sizeof *waits);
    static unsigned char in[BATCH][2048];
    struct mmsghdr got[BATCH];
    struct iovec got_parts[BATCH];
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){out[i], SIZE};
        memset(&messages[i], 0, sizeof messages[i]);
        messages[i].msg_hdr.msg_iov = &parts[i], messages[i].msg_hdr.msg_iovlen = 1;
        got_parts[i] = (struct iovec){in[i], sizeof in[i]};
        memset(&got[i], 0, sizeof got[i]);
        got[i].msg_hdr.msg_iov = &got_parts[i], got[i].msg_hdr.msg_iovlen = 1;
    }
    long begun = 0, offers = 0, requests = 0, acks = 0, naks = 0;
    double start = now(), t = start;
    for (; t < start + seconds + GRACE; t = now()) {
        long due = (t - start) * rate;
        if (due > all) due = all;
        for (; begun < due; begun++) {
            of[begun].discovered = t;
            put(begun, DISCOVER, NULL, NULL);
        }
        flush();
        if (begun == all && acks == all) break;
        int n = recvmmsg(sock, got, BATCH, MSG_DONTWAIT, NULL);
        t = now();
        for (int i = 0; i < n; i++) {
            const unsigned char *p = in[i];
            int len = got[i].msg_len;
            if (len < OPTIONS) continue;
            unsigned id;
            memcpy(&id, p + 4, 4);
            id = ntohl(id);
            const unsigned char *type = option(p, len, 53), *who = option(p, len, 54);
            if (id >= begun || !type) continue;
            struct exchange *e = &of[id];
            if (*type == OFFER && e->offer_ms == 0 && who) {
                e->offer_ms = (t - e->discovered) * 1e3;
                e->requested = t;
                offers++, requests++;
                put(id, REQUEST, p, who);
            } else if (*type == ACK && e->requested != 0 && e->ack_ms == 0) {
                e->ack_ms = (t - e->requested) * 1e3;
                acks++;
            } else if (*type != OFFER && *type != ACK) {
                naks++;
            }
        }
        flush();
        if (n < BATCH) {
            // Sleeps till the next is due, at least 100 us: sending in small bunches is what costs little.
            double next = begun < all ? start + (begun + 1) / rate - now() : 0.01;
            struct timespec wait = {0, (next < 100e-6 ? 100e-6 : next > 0.01 ? 0.01 : next) * 1e9};
            if (n < 1) {
                struct pollfd fd = {sock, POLLIN, 0};
                ppoll(&fd, 1, &wait, NULL);
            } else {
                wait.tv_nsec = 100000;
                nanosleep(&wait, NULL);
            }
        }
    }
    printf("{\"begun\": %ld, \"naks\": %ld, ", begun, naks);
    long n = 0;
    for (long i = 0; i < begun; i++)
        if (of[i].offer_ms) waits[n++] = of[i].offer_ms;
    tell("offer", waits, begun, n);
    printf(", ");
    n = 0;
    for (long i = 0; i < begun; i++)
        if (of[i].ack_ms) waits[n++] = of[i].ack_ms;
    tell("ack", waits, requests, n);
    printf("}\n");
    return 0;
}
