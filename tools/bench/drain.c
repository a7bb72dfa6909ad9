// HTTP clients that take what a server sends and throw it away in the kernel (MSG_TRUNC), so that on a small machine the
// server is what is measured. Each connection asks for PATH again and again.
//
//   drain SERVER_IP PORT PATH CONNECTIONS SECONDS [once|parts:SIZE]   prints JSON: bytes, seconds, whole answers, errors
//
// With `once` each connection asks once, and the time is that of the last; with `parts` each for a part of its own of so many bytes.
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct client {
    int fd, got_head;
    char head[4096];
    long in_head, left;
    char request[1024];
};

static void ask(struct client *c) {
    c->got_head = 0, c->in_head = 0, c->left = 0;
    if (send(c->fd, c->request, strlen(c->request), MSG_NOSIGNAL) < 0) die("send");
}

int main(int argc, char **argv) {
    if (argc < 6) return fprintf(stderr, "usage: drain SERVER_IP PORT PATH CONNECTIONS SECONDS [ONCE]\n"), 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    int connections = atoi(argv[4]), once = argc > 6, open = 0;
    double seconds = atof(argv[5]);
    long size = once && !strncmp(argv[6], "parts:", 6) ? atol(argv[6] + 6) : 0, part = size / connections;
    int poll = epoll_create1(0);
    struct client *clients = calloc(connections, sizeof *clients);
    char *buffer = malloc(1 << 20);
    double start = now();
    for (int i = 0; i < connections; i++, open++) {
        struct client *c = &clients[i];
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(c->fd, (struct sockaddr *)&to, sizeof to)) die("connect");
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
        char range[64] = "";
        if (size) snprintf(range, sizeof range, "Range: bytes=%ld-%ld\r\n", i * part, (i + 1) * part - 1);
        snprintf(c->request, sizeof c->request, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", argv[3], argv[1], range);
        ask(c);
    }
    long bytes = 0, whole = 0, errors = 0;
    double end = start + seconds, last = start;
    while (open > 0 && now() < end) {
        struct epoll_event events[64];
        int n = epoll_wait(poll, events, 64, 100);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            ssize_t got;
            if (!c->got_head) {
                // The head byte by byte would be slow, and past it nothing may be read: peek, then take the head alone.
                got = recv(c->fd, c->head, sizeof c->head - 1, MSG_PEEK);
                if (got > 0) {
                    c->head[got] = 0;
                    char *stop = strstr(c->head, "\r\n\r\n"), *length = strcasestr(c->head, "content-length:");
                    if (!stop) continue;
                    if (strncmp(c->head, size ? "HTTP/1.1 206" : "HTTP/1.1 200", 12) || !length) { errors++; got = 0; }
                    else {
                        c->left = atol(length + 15), c->got_head = 1;
                        if (recv(c->fd, buffer, stop + 4 - c->head, 0) < 0) die("recv");
                    }
                }
            } else {
                got = recv(c->fd, buffer, c->left < 1 << 20 ? c->left : 1 << 20, MSG_TRUNC);
                if (got > 0) {
                    bytes += got, c->left -= got, last = now();
                    if (c->left == 0) {
                        whole++;
                        if (once) got = 0; else ask(c);
                    }
                }
            }
            if (got <= 0) {
                if (!once || c->left) errors++;
                close(c->fd), open--;
            }
        }
    }
    double took = (once ? last : now()) - start;
    printf("{\"bytes\": %ld, \"seconds\": %.6f, \"whole\": %ld, \"errors\": %ld}\n", bytes, took, whole, errors);
    return 0;
}
