// The least that serving a file over TCP costs on this machine: one connection at a time, whatever it asks for is answered with FILE,
// by a loop of sendfile(2) in full frames (TCP_CORK), with nothing else to do. Cheaper than this no HTTP server of the same kernel can be.
//
//   floor SERVER_IP PORT FILE
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

// Reads to the end of a request's head; 0 where the client has gone.
static int asked(int fd) {
    char head[4096];
    size_t len = 0;
    while (len < sizeof head - 1) {
        ssize_t n = recv(fd, head + len, sizeof head - 1 - len, 0);
        if (n <= 0) return 0;
        head[len += n] = 0;
        if (strstr(head, "\r\n\r\n")) return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: floor SERVER_IP PORT FILE\n"), 2;
    int file = open(argv[3], O_RDONLY), listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct stat about;
    if (file < 0 || fstat(file, &about)) die(argv[3]);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &at.sin_addr);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 16)) die("listen");
    char head[200];
    int len = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\n\r\n", (long long)about.st_size);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) die("accept");
        setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
        while (asked(fd)) {
            off_t sent = 0;
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            if (send(fd, head, len, MSG_MORE | MSG_NOSIGNAL) != len) break;
            fcntl(fd, F_SETFL, O_NONBLOCK);
            while (sent < about.st_size) {
                if (sendfile(fd, file, &sent, about.st_size - sent) <= 0 && (errno != EAGAIN || poll(&room, 1, 60000) <= 0)) break;
            }
            fcntl(fd, F_SETFL, 0);
            if (sent < about.st_size) break;
        }
        close(fd);
    }
}
