// The client of tls.py: GETs over many connections at a time, with or without TLS, straight to a server or by a
// proxy's CONNECT, which wrk cannot do. The same client for all contenders; it verifies no certificates.
//
//   tls_client PORT [--tunnel HOST:PORT] [--tls NAME] --url URL --host HOST --size BYTES
//              [--connections N] [--seconds N] [--each full|resumed] [--hold]
//
// Each connection asks again as soon as an answer is complete; when all have had one, it prints "ready" and begins to
// count. With --each it asks once, closes, and is opened anew:
// with a full handshake, or with the session that the last one got. With --hold each connection asks once and stays
// open until standard input ends. It prints one line of JSON.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum state { TUNNEL, HANDSHAKE, ANSWER, DONE };

struct connection {
    int fd;
    enum state state;
    SSL *ssl;
    SSL_SESSION *session;
    int has_answer;
    double started;
    char head[16384];
    size_t head_size;
    long long left;  // bytes of the body, or -1 before its length is known
};

static int port, connections = 32, hold;
static double seconds = 3;
static const char *tunnel, *name, *url, *host, *each;
static long long size;
static char request[4096], opening[1024];
static SSL_CTX *context;
static int poll_fd;
static char buffer[1 << 18];
static int warm;  // connections that have had an answer
static long long requests, bytes, handshakes, resumed, bad_status, broken;
static char protocol[64] = "", cipher[64] = "", key[64] = "";
#define MOST (1 << 24)
static uint32_t *times;  // microseconds of each answer
static size_t timed;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void open_connection(struct connection *c);

static void close_connection(struct connection *c) {
    if (c->ssl) {
        SSL_shutdown(c->ssl);  // says that it closes, and does not wait for the other side's word
        SSL_free(c->ssl);
        c->ssl = NULL;
    }
    close(c->fd);
    c->fd = -1;
}

static void lost(struct connection *c) {
    ERR_clear_error();
    broken++;
    if (broken > 10000) {
        fprintf(stderr, "too many broken connections\n");
        exit(1);
    }
    close_connection(c);
    if (c->session) {
        SSL_SESSION_free(c->session);
        c->session = NULL;
    }
    open_connection(c);
}

static void ask(struct connection *c) {
    c->state = ANSWER;
    c->head_size = 0;
    c->left = -1;
    if (!each) c->started = now();
    size_t length = strlen(request);
    ssize_t sent = c->ssl ? SSL_write(c->ssl, request, length) : write(c->fd, request, length);
    if (sent != (ssize_t)length) lost(c);
}

static void note_tls(struct connection *c) {
    handshakes++;
    resumed += SSL_session_reused(c->ssl);
    snprintf(protocol, sizeof protocol, "%s", SSL_get_version(c->ssl));
    snprintf(cipher, sizeof cipher, "%s", SSL_get_cipher_name(c->ssl));
    X509 *certificate = SSL_get1_peer_certificate(c->ssl);
    if (certificate) {
        EVP_PKEY *its = X509_get0_pubkey(certificate);
        snprintf(key, sizeof key, "%s %d", EVP_PKEY_get0_type_name(its), EVP_PKEY_get_bits(its));
        X509_free(certificate);
    }
}

static void shake(struct connection *c) {
    int done = SSL_do_handshake(c->ssl);
    if (done == 1) {
        note_tls(c);
        ask(c);
    } else if (SSL_get_error(c->ssl, done) != SSL_ERROR_WANT_READ) {
        lost(c);
    }
}

static void begin(struct connection *c) {
    if (!name) {
        ask(c);
        return;
    }
    c->ssl = SSL_new(context);
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_connect_state(c->ssl);
    SSL_set_tlsext_host_name(c->ssl, name);
    if (c->session) SSL_set_session(c->ssl, c->session);
    c->state = HANDSHAKE;
    shake(c);
}

static void open_connection(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->started = now();
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) fail("socket");
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
    if (tunnel) {
        c->state = TUNNEL;
        c->head_size = 0;
        if (write(c->fd, opening, strlen(opening)) != (ssize_t)strlen(opening)) lost(c);
    } else {
        begin(c);
    }
}

// The next bytes, 0 if there are none yet, -1 at the end.
static ssize_t receive(struct connection *c) {
    ssize_t got;
    if (c->ssl && c->state == ANSWER) {
        got = SSL_read(c->ssl, buffer, sizeof buffer);
        if (got > 0) return got;
        return SSL_get_error(c->ssl, got) == SSL_ERROR_WANT_READ ? 0 : -1;
    }
    got = read(c->fd, buffer, sizeof buffer);
    if (got > 0) return got;
    return got < 0 && errno == EAGAIN ? 0 : -1;
}

// Whether the head is complete; what follows it is moved to the beginning of the buffer.
static int take_head(struct connection *c, ssize_t *got) {
    size_t room = sizeof c->head - 1 - c->head_size;
    size_t had = c->head_size, taken = (size_t)*got < room ? (size_t)*got : room;
    memcpy(c->head + had, buffer, taken);
    c->head[had + taken] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        c->head_size += taken;
        return 0;
    }
    size_t used = end + 4 - c->head - had;
    end[2] = 0;
    memmove(buffer, buffer + used, *got - used);
    *got -= used;
    return 1;
}

static void answered(struct connection *c) {
    requests++;
    warm += !c->has_answer;
    c->has_answer = 1;
    if (timed < MOST) times[timed++] = (now() - c->started) * 1e6;
    if (hold) {
        c->state = DONE;
    } else if (each) {
        if (!strcmp(each, "resumed") && c->ssl) {
            if (c->session) SSL_SESSION_free(c->session);
            c->session = SSL_get1_session(c->ssl);
        }
        close_connection(c);
        open_connection(c);
    } else {
        ask(c);
    }
}

static void on_answer(struct connection *c) {
    SSL *ssl = c->ssl;
    do {
        ssize_t got = receive(c);
        if (got == 0) return;
        if (got < 0) {
            lost(c);
            return;
        }
        if (c->left < 0) {
            if (!take_head(c, &got)) continue;
            char *length = strcasestr(c->head, "\r\ncontent-length:");
            if (strncmp(c->head, "HTTP/1.1 200", 12) || !length || atoll(length + 17) != size) {
                if (!bad_status++) fprintf(stderr, "unexpected answer:\n%s\n", c->head);
                if (bad_status > 100) exit(1);
                lost(c);
                return;
            }
            c->left = size;
        }
        c->left -= got;
        bytes += got;
        if (c->left <= 0) {
            answered(c);
            return;
        }
    } while (!ssl || SSL_has_pending(ssl));
}

static void on_tunnel(struct connection *c) {
    ssize_t got = receive(c);
    if (got == 0) return;
    if (got < 0) {
        lost(c);
    } else if (take_head(c, &got)) {
        if (strncmp(c->head, "HTTP/1.", 7) || strncmp(c->head + 8, " 200", 4)) {
            if (!bad_status++) fprintf(stderr, "CONNECT refused:\n%s\n", c->head);
            if (bad_status > 100) exit(1);
            lost(c);
        } else {
            begin(c);
        }
    }
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void parse(int count, char **words) {
    port = atoi(words[1]);
    for (int n = 2; n < count; n++) {
        const char *option = words[n];
        if (!strcmp(option, "--hold")) {
            hold = 1;
            continue;
        }
        const char *value = n + 1 < count ? words[++n] : "";
        if (!strcmp(option, "--tunnel")) tunnel = value;
        else if (!strcmp(option, "--tls")) name = value;
        else if (!strcmp(option, "--url")) url = value;
        else if (!strcmp(option, "--host")) host = value;
        else if (!strcmp(option, "--each")) each = value;
        else if (!strcmp(option, "--size")) size = atoll(value);
        else if (!strcmp(option, "--connections")) connections = atoi(value);
        else if (!strcmp(option, "--seconds")) seconds = atof(value);
        else {
            fprintf(stderr, "unknown option: %s\n", option);
            exit(2);
        }
    }
    if (!port || !url || !host || !size) exit(2);
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", url, host);
    if (tunnel) snprintf(opening, sizeof opening, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", tunnel, tunnel);
}

int main(int count, char **words) {
    if (count < 2) return 2;
    parse(count, words);
    signal(SIGPIPE, SIG_IGN);
    times = malloc(sizeof *times * (size_t)MOST);
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_read_ahead(context, 1);  // one read for many records
    SSL_CTX_set_default_read_buffer_len(context, 1 << 17);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    const unsigned char protocols[] = "\x08http/1.1";
    SSL_CTX_set_alpn_protos(context, protocols, sizeof protocols - 1);
    poll_fd = epoll_create1(0);
    struct connection *all = calloc(connections, sizeof *all);
    for (int n = 0; n < connections; n++) open_connection(&all[n]);
    double start = now(), end = start + seconds, last = start;
    long long seen = 0;
    int is_ready = each || hold;
    struct epoll_event events[256];
    while (hold ? requests < connections : !is_ready || now() < end) {
        if (!is_ready && warm == connections) {
            is_ready = 1;
            puts("ready");
            fflush(stdout);
            requests = bytes = timed = 0;
            start = now();
            end = start + seconds;
        }
        int ready = epoll_wait(poll_fd, events, 256, 100);
        for (int n = 0; n < ready; n++) {
            struct connection *c = events[n].data.ptr;
            if (c->state == TUNNEL) on_tunnel(c);
            else if (c->state == HANDSHAKE) shake(c);
            else if (c->state == ANSWER) on_answer(c);
            else if (read(c->fd, buffer, sizeof buffer) <= 0) broken++, epoll_ctl(poll_fd, EPOLL_CTL_DEL, c->fd, NULL);
        }
        if (requests + handshakes != seen) seen = requests + handshakes, last = now();
        else if (now() - last > 20) {
            fprintf(stderr, "no answer for 20 s\n");
            return 1;
        }
    }
    double spent = now() - start;
    qsort(times, timed, sizeof *times, by_size);
    printf("{\"requests\": %lld, \"seconds\": %.6f, \"bytes\": %lld, \"handshakes\": %lld, \"resumed\": %lld, "
           "\"errors\": %lld, \"p50\": %.6f, \"p99\": %.6f, \"protocol\": \"%s\", \"cipher\": \"%s\", \"key\": \"%s\"}\n",
           requests, spent, bytes, handshakes, resumed, bad_status + broken, timed ? times[timed / 2] / 1e6 : 0.0,
           timed ? times[timed * 99 / 100] / 1e6 : 0.0, protocol, cipher, key);
    fflush(stdout);
    if (hold) while (read(0, buffer, sizeof buffer) > 0) continue;
    return 0;
}
