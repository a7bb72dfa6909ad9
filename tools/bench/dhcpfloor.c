// A DHCP server that decides nothing and keeps nothing: every DISCOVER gets an OFFER of an address made of its transaction, every other
// packet an ACK. A loop of recv and send: what it gets is what the kernel and the load leave to a server.
//
//   dhcpfloor SERVER_IP
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { SIZE = 300, OPTIONS = 240, DISCOVER = 1, OFFER = 2, ACK = 5 };

int main(int argc, char **argv) {
    if (argc != 2) return fprintf(stderr, "usage: dhcpfloor SERVER_IP\n"), 2;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(67)}, to = at;
    inet_pton(AF_INET, argv[1], &at.sin_addr);
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    if (bind(sock, (struct sockaddr *)&at, sizeof at)) die("bind");
    for (;;) {
        unsigned char p[2048];
        ssize_t len = recv(sock, p, sizeof p, 0);
        if (len < 0) die("recv");
        // The load's message type is its first option.
        if (len < SIZE || p[OPTIONS] != 53) continue;
        unsigned char *o = p + OPTIONS + 2;
        *o = *o == DISCOVER ? OFFER : ACK;
        p[0] = 2;
        memcpy(p + 16, p + 4, 4);
        o[1] = 54, o[2] = 4, memcpy(o + 3, &at.sin_addr, 4);
        memcpy(o + 7, "\x33\x04\x00\x00\x0e\x10\x01\x04\xff\x00\x00\x00\xff", 13);
        memcpy(&to.sin_addr, p + 24, 4);
        if (sendto(sock, p, SIZE, 0, (struct sockaddr *)&to, sizeof to) < 0) die("sendto");
    }
}
