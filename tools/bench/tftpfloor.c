// A TFTP server that does next to nothing, to see what this client and this kernel leave to any server: one transfer at a time, whatever it asks for is answered with FILE in
// blocks of 1428 bytes from memory, by a loop of recv(2) and send(2) on a connected socket; with windowsize=16, where it asks for
// one, a window is one call that the kernel cuts into packets (UDP_SEGMENT).
//
//   tftpfloor SERVER_IP PORT FILE
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 1428, WINDOW = 16 };
static const char PLAIN[] = "\0\6blksize\0" "1428", WINDOWED[] = "\0\6blksize\0" "1428\0windowsize\0" "16";

// Sends the blocks after `from` up to `to`, in one call.
static void window(int fd, const unsigned char *file, long size, long from, long to) {
    static unsigned char out[WINDOW * (BLOCK + 4)];
    unsigned char *at = out;
    for (long block = from + 1; block <= to; block++) {
        long begin = (block - 1) * BLOCK, len = size - begin < BLOCK ? size - begin : BLOCK;
        unsigned char head[4] = {0, 3, block >> 8, block};
        memcpy(at, head, 4);
        memcpy(at + 4, file + begin, len);
        at += 4 + len;
    }
    // Where nobody hears it, the wait for an acknowledgement ends the transfer.
    send(fd, out, at - out, 0);
}

static void transfer(int fd, const unsigned char *file, long size, int windowed) {
    long last = size / BLOCK + 1, acked = -1;
    const char *oack = windowed ? WINDOWED : PLAIN;
    if (send(fd, oack, windowed ? sizeof WINDOWED : sizeof PLAIN, 0) < 0) return;
    while (acked < last) {
        unsigned char ack[600];
        if (recv(fd, ack, sizeof ack, 0) < 4 || ack[1] != 4) return;
        acked = acked < 0 ? 0 : acked + (unsigned short)((ack[2] << 8 | ack[3]) - (unsigned short)acked);
        long to = acked + (windowed ? WINDOW : 1);
        if (acked < last) window(fd, file, size, acked, to < last ? to : last);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: tftpfloor SERVER_IP PORT FILE\n"), 2;
    int fd = open(argv[3], O_RDONLY), listener = socket(AF_INET, SOCK_DGRAM, 0), cut = BLOCK + 4;
    struct stat about;
    if (fd < 0 || fstat(fd, &about)) die(argv[3]);
    unsigned char *file = mmap(NULL, about.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (file == MAP_FAILED) die("mmap");
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))}, any = at;
    inet_pton(AF_INET, argv[1], &at.sin_addr);
    any.sin_addr = at.sin_addr;
    any.sin_port = 0;
    if (bind(listener, (struct sockaddr *)&at, sizeof at)) die("bind");
    for (;;) {
        char request[1024];
        struct sockaddr_in peer;
        socklen_t len = sizeof peer;
        ssize_t got = recvfrom(listener, request, sizeof request, 0, (struct sockaddr *)&peer, &len);
        if (got < 0) die("recvfrom");
        int own = socket(AF_INET, SOCK_DGRAM, 0), windowed = memmem(request, got, "windowsize", 10) != NULL;
        struct timeval patience = {.tv_sec = 5};
        setsockopt(own, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        if (bind(own, (struct sockaddr *)&any, sizeof any) || connect(own, (struct sockaddr *)&peer, len)) die("connect");
        if (windowed && setsockopt(own, IPPROTO_UDP, UDP_SEGMENT, &cut, sizeof cut)) die("UDP_SEGMENT");
        transfer(own, file, about.st_size, windowed);
        close(own);
    }
}
