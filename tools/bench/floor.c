// An HTTP server that does next to nothing, to see what the kernel leaves to any server: whatever is asked for is answered with FILE, by a thread for each
// connection with a loop of sendfile(2) in full frames (TCP_CORK), and with nothing else to do.
//
//   floor SERVER_IP PORT FILE
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
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

static void cork(int fd, int on) { setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on); }

static struct {
    int fd;
    off_t size;
    char head[200];
    int len;
} file;

static void *serve(void *arg) {
    int fd = (int)(long)arg;
    while (asked(fd)) {
        off_t sent = 0;
        struct pollfd room = {.fd = fd, .events = POLLOUT};
        if (send(fd, file.head, file.len, MSG_MORE | MSG_NOSIGNAL) != file.len) break;
        cork(fd, 1);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        while (sent < file.size) {
            if (sendfile(fd, file.fd, &sent, file.size - sent) <= 0 && (errno != EAGAIN || poll(&room, 1, 60000) <= 0)) break;
        }
        fcntl(fd, F_SETFL, 0);
        // Else the kernel keeps the last frame back for a fifth of a second.
        cork(fd, 0);
        if (sent < file.size) break;
    }
    close(fd);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: floor SERVER_IP PORT FILE\n"), 2;
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct stat about;
    file.fd = open(argv[3], O_RDONLY);
    if (file.fd < 0 || fstat(file.fd, &about)) die(argv[3]);
    file.size = about.st_size;
    file.len = snprintf(file.head, sizeof file.head, "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\n\r\n", (long long)file.size);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &at.sin_addr);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 256)) die("listen");
    // A client that has gone is no reason to end.
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        pthread_t thread;
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) die("accept");
        if (pthread_create(&thread, NULL, serve, (void *)(long)fd)) die("pthread_create");
        pthread_detach(thread);
    }
}
